"""From an operator's name in a recipe to the operator, and the digest of the code behind it."""

from pathlib import Path

import operators
from operators import Operator
from operators.errors import OperatorError
from service.errors import ConfigError
from service.keys import sources_digest
from service.model import OperatorSpec


def resolve(spec: OperatorSpec) -> Operator:
    """The operator of that name and parameters.

    Raises:
        ConfigError: there is none, or a parameter is unknown or impossible.
    """
    try:
        return operators.make(spec.name, **dict(spec.parameters))
    except OperatorError as exc:
        raise ConfigError(f"operator: {exc}") from None


def code_digest() -> str:
    """BLAKE3-256 over all of the operators' sources."""
    return sources_digest(Path(operators.__path__[0]))
