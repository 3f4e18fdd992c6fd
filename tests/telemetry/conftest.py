import numpy as np
import pytest
from observed import CONFIG, Observed


@pytest.fixture
def observe(tmp_path):
    def one(text=CONFIG, opinions="off"):
        return Observed(tmp_path / "c.yaml", text.replace("OPINIONS", opinions))

    return one


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
