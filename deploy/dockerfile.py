"""A Dockerfile's steps as data, as far as ours needs it; and what .dockerignore leaves of a context."""

import json
import re
import string
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import PurePosixPath
from typing import NamedTuple

CONTINUED = re.compile(r"\\[ \t]*\n(?:[ \t]*#[^\n]*\n)*")
PAIR = re.compile(r'([\w.]+)=("[^"]*"|\S*)')
KNOWN = frozenset(
    {
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "USER",
        "WORKDIR",
    }
)


class Step(NamedTuple):
    """One instruction: its keyword in capitals, its ``--flags``, and what follows them, as it is written."""

    keyword: str
    flags: Mapping[str, str]
    value: str

    @property
    def words(self) -> list[str]:
        """The exec form as a list; else the words."""
        return list(json.loads(self.value)) if self.value.startswith("[") else self.value.split()

    @property
    def pairs(self) -> dict[str, str]:
        """``NAME=value`` of ENV and LABEL, not expanded."""
        return {name: value.strip('"') for name, value in PAIR.findall(self.value)}


class Stage(NamedTuple):
    """From a FROM to the next one."""

    base: str
    name: str
    steps: list[Step]


def parse(text: str) -> list[Step]:
    """All instructions, in their order.

    Raises:
        ValueError: one is not known here.
    """
    lines = "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    steps = []
    for line in CONTINUED.sub(" ", lines).splitlines():
        if not line.strip():
            continue
        keyword, _, rest = line.strip().partition(" ")
        flags = {}
        while found := re.match(r"--([\w-]+)=(\S+)\s+", rest):
            flags[found[1]] = found[2]
            rest = rest[found.end() :]
        if keyword not in KNOWN:
            raise ValueError(f"no instruction is known as {keyword!r}")
        steps.append(Step(keyword, flags, rest.strip()))
    return steps


def stages(steps: list[Step], arguments: Mapping[str, str]) -> list[Stage]:
    """The steps by stage; what stands before the first FROM are arguments that it may name."""
    known = dict(arguments)
    found: list[Stage] = []
    for step in steps:
        if step.keyword == "FROM":
            base, *named = step.words
            found.append(Stage(expand(base, known), named[1] if named else "", []))
        elif found:
            found[-1].steps.append(step)
        else:
            name, _, default = step.value.partition("=")
            known.setdefault(name, default)
    return found


def expand(text: str, variables: Mapping[str, str]) -> str:
    """``$NAME`` and ``${NAME}`` in it, as the builder expands them: what nobody has set is empty."""
    return string.Template(text).substitute(_Unset(variables))


class _Unset(dict[str, str]):
    def __missing__(self, _: str) -> str:
        return ""


def ignored(path: str, patterns: list[str]) -> bool:
    """Whether .dockerignore keeps a path out of the context: the last pattern that matches says it."""
    out = False
    for line in patterns:
        kept = line.startswith("!")
        if any(_matches(part, line.lstrip("!")) for part in _with_parents(path)):
            out = not kept
    return out


def _matches(path: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(PurePosixPath(path).name, pattern[3:])
    return fnmatch(path, pattern) and path.count("/") == pattern.count("/")


def _with_parents(path: str) -> list[str]:
    return [path, *(str(parent) for parent in PurePosixPath(path).parents if str(parent) != ".")]


def patterns_of(text: str) -> list[str]:
    """The lines of a .dockerignore that are no comments."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
