"""What is said of the server and of its models."""

import json
from typing import Any

import service
from service.api.v2.models import Model
from service.api.v2.outputs import outputs_of
from service.config import Limits
from service.datatypes import datatype_of
from service.engine.ensemble import Ensemble

PLATFORM = "soft_targets"
# Only what works.
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)


def server() -> dict[str, Any]:
    """The server's metadata."""
    return {"name": "soft-targets", "version": service.__version__, "extensions": list(EXTENSIONS)}


def metadata(ensemble: Ensemble, model: Model) -> dict[str, Any]:
    """A model's metadata: its tensors, rows first."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": PLATFORM,
        "inputs": [
            {"name": name, "datatype": datatype_of(spec.dtype), "shape": [-1, *spec.shape]}
            for name, spec in ensemble.inputs.items()
        ],
        "outputs": [
            {"name": name, "datatype": output.datatype, "shape": [-1, *output.shape]}
            for name, output in outputs_of(model.effective.layout).items()
        ],
    }


def config(ensemble: Ensemble, model: Model, limits: Limits) -> dict[str, Any]:
    """A model's configuration, as perf tools read it; its parameters hold what only this server has."""
    effective = model.effective
    parameters = {
        "classes": json.dumps(ensemble.classes),
        "fingerprint": effective.fingerprint,
        "certificate": effective.certificate.id,
        "operator": json.dumps(effective.recipe.operator.as_dict()),
        "temperature": repr(effective.recipe.temperature),
    }
    return {
        "name": model.name,
        "platform": PLATFORM,
        "backend": PLATFORM,
        "version_policy": {"specific": {"versions": [model.version]}},
        "max_batch_size": limits.max_rows_per_request,
        "input": [
            {"name": name, "data_type": _type(datatype_of(spec.dtype)), "dims": list(spec.shape)}
            for name, spec in ensemble.inputs.items()
        ],
        "output": [
            {"name": name, "data_type": _type(output.datatype), "dims": list(output.shape)}
            for name, output in outputs_of(effective.layout).items()
        ],
        "dynamic_batching": {"preferred_batch_size": [ensemble.config.batching.max_rows]},
        "response_cache": {"enable": True},
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
    }


def _type(datatype: str) -> str:
    """A datatype as configurations spell it."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
