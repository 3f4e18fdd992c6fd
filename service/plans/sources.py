"""The digest of the code that an operator from elsewhere is made of: all that can change its answers.

What counts as its code is read from the sources, not from what happens to be loaded, so that every process
finds the same: all of the package that the import names (or the lone module), the package of the factory
itself, and whatever these import that is neither of the standard library nor installed. Of what is installed
the version counts. What is imported by a computed name, and files that are no sources, are not seen.
"""

import ast
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from service.keys import files_digest, fingerprint

SUFFIXES = frozenset({".py", ".so", ".pyd"})
INSTALLED = frozenset({"site-packages", "dist-packages"})
# The package of operators is in every operator's digest anyway.
ELSEWHERE = sys.stdlib_module_names | {"operators"}

# What a process runs is what it loaded, not what a file has become since: a module is hashed once.
_known: WeakKeyDictionary[ModuleType, dict[str, str]] = WeakKeyDictionary()


def code_behind(module: ModuleType, factory: Callable[..., Any]) -> str:
    """The digest of the sources behind a factory, and of the versions of what they import.

    Args:
        module: that the import path names.
        factory: found in it; it may come from another.
    """
    origin = inspect.getmodule(_unwrapped(factory))
    own = module.__name__ if origin is None else origin.__name__
    known = _known.setdefault(module, {})
    if own not in known:
        known[own] = _digest({_top(module.__name__), _top(own)})
    return known[own]


def _unwrapped(factory: Any) -> Any:
    """The function inside partials and decorators."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    return inspect.unwrap(factory) if inspect.isfunction(factory) else factory


def _top(name: str) -> str:
    return name.partition(".")[0]


def _digest(named: set[str]) -> str:
    files: dict[str, Path] = {}
    installed, seen, waiting = set(), set(ELSEWHERE), sorted(named)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = _files(name)
        foreign = any(INSTALLED & set(path.parts) for path in found.values())
        if foreign:
            installed.add(name)
        if not foreign or name in named:
            files |= found
        if not foreign:
            waiting += [one for path in found.values() for one in _imports(path)]
    return fingerprint([files_digest(sorted(files.items())), _versions(installed)])


def _files(name: str) -> dict[str, Path]:
    """The sources of a top-level package or module, named from there: where it lies does not matter."""
    try:
        spec = util.find_spec(name)
    except (ImportError, ValueError):  # a ValueError: a module without one, such as a script
        spec = None
    if spec is not None and spec.submodule_search_locations is not None:
        inside = [
            (path.relative_to(root), path)
            for root in map(Path, reversed(spec.submodule_search_locations))  # of several, the first wins
            for path in root.rglob("*")
            if path.suffix in SUFFIXES
        ]
        # A folder without __init__.py is a package of all that lies below it, an environment included.
        return {
            f"{name}/{short.as_posix()}": path for short, path in inside if not INSTALLED & {*short.parts}
        }
    origin = spec.origin if spec is not None else getattr(sys.modules.get(name), "__file__", None)
    return {name: Path(origin)} if origin and Path(origin).is_file() else {}


def _imports(path: Path) -> Iterator[str]:
    """The top-level names that a source imports, anywhere in it."""
    if path.suffix != ".py":
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a user's source is warned of is not for our log
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return  # no source of this Python: nobody imported it
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (_top(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield _top(node.module)


def _versions(packages: set[str]) -> dict[str, list[str]]:
    """The distributions that top-level packages come from, with their versions."""
    if not packages:
        return {}
    owners = metadata.packages_distributions()
    return {
        package: sorted({f"{one} {metadata.version(one)}" for one in owners.get(package, ())})
        for package in sorted(packages)
    }
