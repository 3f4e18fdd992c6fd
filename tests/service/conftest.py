import pytest
from redis_server import RedisServer


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
