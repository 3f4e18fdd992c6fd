import numpy as np
import pytest
from bulk_runs import CONFIG
from redis_server import RedisServer


@pytest.fixture
def configured(tmp_path):
    """Writes a configuration; its cache is a folder of the test, unless the URL says otherwise."""

    def write(url=None, *, quorum="all", name="c.yaml", change=()):
        text = CONFIG.replace("URL", url or f"lmdb://{tmp_path}/cache?max_bytes=8MiB")
        for old, new in [("QUORUM", str(quorum)), *change]:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def saved(tmp_path):
    """Saves rows as an .npy file."""

    def save(values, name="x.npy"):
        np.save(tmp_path / name, values)
        return tmp_path / name

    return save


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def redis_server(shared_redis):
    """A Redis that runs and is empty, for tests that leave it running."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def own_redis(tmp_path):
    """Makes servers that the test may treat as it likes; they are not started yet."""
    made = []

    def make(*options):
        made.append(RedisServer(tmp_path, *options))
        return made[-1]

    yield make
    for server in made:
        server.stop()
