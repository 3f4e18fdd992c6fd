"""The Open Inference Protocol v2 over HTTP: every recipe is a model, over the same engine as ``/v1``."""
