import pytest
from security_server import Served, configuration


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """Serve with these limits; the same ones share a server."""
    running = {}

    def with_limits(limits, auth=""):
        if (limits, auth) not in running:
            path = tmp_path_factory.mktemp("served") / "toy.yaml"
            path.write_text(configuration(limits, auth=auth))
            running[limits, auth] = Served(path)
        return running[limits, auth]

    yield with_limits
    for one in running.values():
        one.stop()
