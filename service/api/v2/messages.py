"""What messages repeat of a request: enough to find it again, however much of it there is."""

import reprlib
from collections.abc import Collection, Iterable
from typing import Any

from service.model import nearest

LONGEST_NAME = 64  # of what a configuration may call something
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlist = 8


def short(value: Any) -> str:
    """A value of a request as Python writes it, cut where it is long."""
    return _SHORT.repr(value)


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """That a name is unknown, and the nearest known one."""
    return f"unknown {what} {short(name)}{nearest(name[:LONGEST_NAME], known)}"


def unknown_keys(extra: Iterable[str], known: Iterable[str]) -> str:
    """That an object has keys that nobody reads."""
    return f"unknown keys: {short(sorted(extra))}; known: {', '.join(known)}"


def repeated(names: Iterable[str]) -> str | None:
    """The first name that stands twice, as a message shows it; None where none does."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return short(name)
        seen.add(name)
    return None
