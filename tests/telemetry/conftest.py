import numpy as np
import pytest
from observed import CONFIG, Observed


@pytest.fixture
def observe(tmp_path, monkeypatch):
    monkeypatch.setattr("service.engine.measuring.LOOKING", 1)  # every batch

    def one(text=CONFIG, spans=None):
        return Observed(tmp_path / "c.yaml", text, spans)

    return one


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
