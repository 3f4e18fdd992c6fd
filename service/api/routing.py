"""Routes that are not FastAPI's."""

from starlette.routing import Match, Route
from starlette.types import Scope


class PlainRoute(Route):
    """A route that a request's scope names once it is taken, as those of FastAPI do."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether it is meant, and what the scope says then."""
        match, taken = super().matches(scope)
        return match, {**taken, "route": self}
