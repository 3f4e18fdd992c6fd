import pytest
from fastapi.testclient import TestClient

from service.api.app import create_app
from service.auth import open_access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine


@pytest.fixture(scope="session")
def opened(toy):
    return Engine.open(load(toy.config))


@pytest.fixture(scope="session")
def client(toy, opened):
    settings = load(toy.config)
    with TestClient(
        create_app(opened, settings, open_access(settings.auth), Alone(opened, lambda: load(toy.config))),
        raise_server_exceptions=False,
    ) as client:
        yield client
