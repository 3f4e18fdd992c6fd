"""From an operator as a recipe names it to the operator, and the digest of the code behind it.

A name is a built-in operator, or an entry point of the group ``soft_targets.operators``. An import,
``module:attribute``, names a factory that takes the recipe's parameters and returns an ``Operator`` or a bare
``fuse`` function, or is itself a bare ``fuse(log_probs, weights)``. A bare function is taken as ``floored``,
with no claims.
"""

import importlib
import inspect
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import operators
from operators import BUILTIN, Operator
from operators.errors import OperatorError
from service.errors import ConfigError
from service.keys import canonical_json, files_digest, fingerprint, sources_digest
from service.model import OperatorSpec, nearest

GROUP = "soft_targets.operators"
BUILTIN_NAMES = frozenset(BUILTIN)


class Resolved(NamedTuple):
    """An operator and the digest of all the code it is made of."""

    operator: Operator
    code: str


def resolve(spec: OperatorSpec) -> Resolved:
    """The operator that a recipe names.

    Raises:
        ConfigError: there is none, it cannot be imported or made, or a parameter is unknown or impossible.
    """
    builtin = sources_digest(Path(operators.__path__[0]))
    if not spec.imported and spec.name in BUILTIN:
        try:
            return Resolved(operators.make(spec.name, **dict(spec.parameters)), builtin)
        except OperatorError as exc:
            raise ConfigError(f"operator: {exc}") from None
    factory, distribution = _imported(spec.name) if spec.imported else _entry_point(spec.name)
    operator = _made(factory, spec)
    module = inspect.getmodule(factory)
    source = getattr(module, "__file__", None)
    own = files_digest([("", Path(source))]) if source and Path(source).is_file() else spec.name
    return Resolved(operator, fingerprint([builtin, own, distribution]))


def _imported(path: str) -> tuple[Callable[..., Any], str | None]:
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f'operator: import {path!r} must look like "package.module:name"')
    try:
        module = importlib.import_module(module_name)
    except Exception as exc:  # noqa: BLE001 - whatever a user's module raises when it is imported
        raise ConfigError(f"operator: cannot import {module_name!r}: {type(exc).__name__}: {exc}") from None
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ConfigError(
            f"operator: {module_name!r} has no function {attribute!r}{nearest(attribute, dir(module))}"
        )
    return factory, _version(module_name.partition(".")[0])


def _version(package: str) -> str | None:
    for distribution in metadata.packages_distributions().get(package, ()):
        return f"{distribution} {metadata.version(distribution)}"
    return None


def _entry_point(name: str) -> tuple[Callable[..., Any], str | None]:
    found = {entry.name: entry for entry in metadata.entry_points(group=GROUP)}
    if name not in found:
        raise ConfigError(f"operator: no operator {name!r}{nearest(name, {*BUILTIN, *found})}")
    entry = found[name]
    try:
        factory = entry.load()
    except Exception as exc:  # noqa: BLE001 - whatever a user's module raises when it is imported
        raise ConfigError(f"operator: entry point {name!r} cannot be loaded: {exc}") from None
    return factory, f"{entry.dist.name} {entry.dist.version}" if entry.dist else None


def _made(factory: Callable[..., Any], spec: OperatorSpec) -> Operator:
    """Call the factory, or take the function for the operator itself."""
    if _is_fuse(factory):
        if spec.parameters:
            raise ConfigError(f"operator: {spec.name!r} is a bare fuse function and takes no parameters")
        return Operator(spec.name, (), factory, "floored")
    try:
        made = factory(**dict(spec.parameters))
    except (OperatorError, TypeError, ValueError) as exc:
        raise ConfigError(f"operator: {spec.name!r} with {dict(spec.parameters)}: {exc}") from None
    if isinstance(made, Operator):
        try:
            canonical_json(made.parameters)
        except (TypeError, ValueError):
            raise ConfigError(
                f"operator: {spec.name!r}: its parameters must be numbers, text or booleans"
            ) from None
        return made
    if callable(made):
        return Operator(spec.name, spec.parameters, made, "floored")
    raise ConfigError(
        f"operator: {spec.name!r} returned {type(made).__name__}; a factory returns an Operator or a fuse "
        "function"
    )


def _is_fuse(function: Callable[..., Any]) -> bool:
    """Whether it takes two arguments by position, as ``fuse(log_probs, weights)`` does and no factory may."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    required = [
        one for one in parameters if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    return len(required) == len(parameters) == 2  # noqa: PLR2004 - log_probs, weights
