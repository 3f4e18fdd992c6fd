"""From an operator as a recipe names it to the operator, and the digest of the code behind it.

A name is a built-in operator, or an entry point of the group ``soft_targets.operators``. An import,
``module:attribute``, names a factory that takes the recipe's parameters and returns an ``Operator`` or a bare
``fuse`` function, or is itself a bare ``fuse(log_probs, weights)``. A bare function is taken as ``floored``,
with no claims.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import operators
from operators import BUILTIN, Operator, checked
from operators.errors import OperatorError
from service.errors import ConfigError
from service.keys import fingerprint, sources_digest
from service.model import OperatorSpec, nearest
from service.plans.sources import code_behind

GROUP = "soft_targets.operators"
BUILTIN_NAMES = frozenset(BUILTIN)
# What a recipe writes beside the parameters.
WORDS = frozenset({"name", "import"})


class Resolved(NamedTuple):
    """An operator, and what tells it from every other.

    Attributes:
        operator: the rule.
        code: the digest of all the code it is made of.
        given: as the recipe gives it; of a built-in operator with all parameters, defaults included.
    """

    operator: Operator
    code: str
    given: OperatorSpec

    @property
    def identity(self) -> list[Any]:
        """As it is given, what it says of itself, and its code: an operator may keep back a parameter."""
        operator = self.operator
        return [self.given, operator.name, operator.parameters, operator.domain, self.code]


class _Found(NamedTuple):
    """What a path leads to.

    Attributes:
        factory: callable.
        code: the digest of its sources.
        origin: the path, and the distribution it comes from.
    """

    factory: Callable[..., Any]
    code: str
    origin: tuple[str, str | None]


def resolve(spec: OperatorSpec) -> Resolved:
    """The operator that a recipe names.

    Raises:
        ConfigError: there is none, it cannot be imported or made, a parameter is unknown or impossible, or
            what was made is no operator.
    """
    if not spec.imported and spec.name in BUILTIN:
        try:
            made = operators.make(spec.name, **dict(spec.parameters))
        except OperatorError as exc:
            raise ConfigError(f"operator: {exc}") from None
        return Resolved(made, _builtin_code(), OperatorSpec(spec.name, made.parameters))
    found = _imported(spec.name) if spec.imported else _entry_point(spec.name)
    operator = _made(found.factory, spec)
    return Resolved(operator, fingerprint([_builtin_code(), found.code, found.origin]), spec)


@functools.cache  # what a process runs is what it loaded
def _builtin_code() -> str:
    return sources_digest(Path(operators.__path__[0]))


def _imported(path: str) -> _Found:
    module_name, colon, attribute = path.partition(":")
    if not colon or not module_name or not attribute:
        raise ConfigError(f'operator: import {path!r} must look like "package.module:name"')
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a user's module raises when it is imported
        raise ConfigError(
            f"operator: cannot import {module_name!r}: {type(exc).__name__}: {exc}; its folder must be on "
            "PYTHONPATH, or the package installed"
        ) from None
    if not hasattr(module, attribute):
        functions = [name for name, value in vars(module).items() if callable(value)]
        raise ConfigError(
            f"operator: {module_name!r} has no function {attribute!r}{nearest(attribute, functions)}"
        )
    factory = _callable(getattr(module, attribute), path)
    distributions = metadata.packages_distributions().get(module_name.partition(".")[0], ())
    versions = ", ".join(sorted({f"{one} {metadata.version(one)}" for one in distributions}))
    return _Found(factory, code_behind(module, factory), (path, versions or None))


def _entry_point(name: str) -> _Found:
    entries = metadata.entry_points(group=GROUP)
    found = {entry.value: entry for entry in entries if entry.name == name}
    if not found:
        known = {*BUILTIN, *(entry.name for entry in entries)}
        raise ConfigError(f"operator: no operator {name!r}{nearest(name, known)}")
    if len(found) > 1:
        raise ConfigError(
            f"operator: entry point {name!r} is offered more than once, as {', '.join(sorted(found))}; "
            "uninstall all but one"
        )
    entry = next(iter(found.values()))
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a user's module raises when it is imported
        raise ConfigError(
            f"operator: entry point {name!r} ({entry.value}) cannot be loaded: {type(exc).__name__}: {exc}"
        ) from None
    factory = _callable(loaded, f"{name} ({entry.value})")
    version = f"{entry.dist.name} {entry.dist.version}" if entry.dist else None
    return _Found(factory, code_behind(sys.modules[entry.module], factory), (entry.value, version))


def _callable(value: Any, path: str) -> Callable[..., Any]:
    if not callable(value):
        what = "an Operator" if isinstance(value, Operator) else f"{type(value).__name__} {value!r:.80}"
        raise ConfigError(
            f"operator: {path!r} is {what}, not a function: name one that returns an Operator, or a bare "
            "fuse(log_probs, weights)"
        )
    return value  # type: ignore[no-any-return]


def _made(factory: Callable[..., Any], spec: OperatorSpec) -> Operator:
    """Call the factory, or take the function for the operator itself."""
    where = f"operator: {spec.name!r}"
    if _is_fuse(factory, spec):
        return Operator(spec.name, (), factory, "floored")
    called = f"{where} with {dict(spec.parameters)}"
    try:
        made = factory(**dict(spec.parameters))
    except (OperatorError, ValueError) as exc:
        raise ConfigError(f"{called}: {exc}") from None
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever a user's factory raises
        raise ConfigError(
            f"{called}: it raised {type(exc).__name__}: {exc}; a factory takes the recipe's parameters and "
            "returns an Operator or a fuse function"
        ) from None
    if not isinstance(made, Operator):
        if not callable(made):
            raise ConfigError(
                f"{where} returned {type(made).__name__}; a factory returns an Operator or a fuse function"
            )
        made = Operator(spec.name, spec.parameters, made, "floored")
    try:
        made = checked(made)
    except OperatorError as exc:
        raise ConfigError(f"{where} returned an Operator that is none: {exc}") from None
    _agrees(made, spec)
    return made


def _agrees(operator: Operator, spec: OperatorSpec) -> None:
    """What was given one value and says another would be certified for what it is not."""
    own = dict(operator.parameters)
    for key in own.keys() & WORDS:
        raise ConfigError(f"operator: {spec.name!r} has a parameter called {key!r}; call it otherwise")
    for key, given in spec.parameters:
        kept = own.get(key, given)
        if kept != given or isinstance(kept, bool) != isinstance(given, bool):
            raise ConfigError(
                f"operator: {spec.name!r} was given {key} = {given!r}, and its own parameters say {key} = "
                f"{kept!r}; give the value that it keeps, or mend the parameters of the Operator"
            )


def _is_fuse(function: Callable[..., Any], spec: OperatorSpec) -> bool:
    """Whether it needs two arguments by position, as ``fuse(log_probs, weights)`` does and no factory may."""
    try:
        arguments = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    required = [
        one
        for one in arguments
        if one.default is one.empty and one.kind not in {one.VAR_POSITIONAL, one.VAR_KEYWORD}
    ]
    by_position = [
        one.name for one in required if one.kind in {one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD}
    ]
    if inspect.isclass(function) or len(by_position) != 2 or len(required) != 2:  # noqa: PLR2004 - log_probs, weights
        return False
    named = " and ".join(by_position)
    if spec.parameters:
        if {*by_position} <= dict(spec.parameters).keys():
            return False  # a factory whose parameters are all given
        raise ConfigError(
            f"operator: {spec.name!r} needs {named}, so it is taken for a bare fuse function, which takes no "
            "parameters; a factory is a function of keywords, all of them given or with defaults"
        )
    if _makes_an_operator(function):
        raise ConfigError(
            f"operator: {spec.name!r} is a factory that needs {named}: give both as parameters of the recipe"
        )
    return True


def _makes_an_operator(function: Callable[..., Any]) -> bool:
    """Whether what looks like a fuse function is a factory; what it raises is the certifier's to tell."""
    try:
        with np.errstate(all="ignore"):
            made = function(np.log(np.full((2, 1, 2), 0.5)), np.full((2, 1), 0.5))
    except (Exception, SystemExit):  # noqa: BLE001 - whatever a user's function raises
        return False
    return isinstance(made, Operator) or callable(made)
