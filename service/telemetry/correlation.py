"""What ties a request to its lines in logs, here and elsewhere: its id, and the trace that it is part of."""

import re
import secrets
from collections.abc import Iterable
from contextlib import AbstractContextManager
from contextvars import ContextVar

import structlog

# What is written into a log and sent back: printable, in one word, and short.
SANE_ID = re.compile(rb"[!-~]{1,128}")
# W3C trace context: version, trace, parent, flags; later versions may say more, which is not ours to repeat.
TRACEPARENT = re.compile(
    rb"((?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?"
)

# What a teacher elsewhere is told of the trace that its question is part of, where there is one.
outgoing_traceparent: ContextVar[str | None] = ContextVar("outgoing_traceparent", default=None)


def request_id(given: bytes | None) -> str:
    """The id that a request came with, if it can be used, else a new one."""
    if given is not None and SANE_ID.fullmatch(given):
        return given.decode("ascii")
    return secrets.token_hex(16)


def trace_of(traceparent: bytes | None) -> tuple[bytes, str] | None:
    """What a request says of the trace that it is part of, and the trace's id; None where it is not sound."""
    found = TRACEPARENT.fullmatch(traceparent) if traceparent else None
    if found is None or (found[3] and found[1].startswith(b"00")):
        return None
    return found[1], found[2].decode("ascii")


def current() -> str | None:
    """The id of the request that the running task answers."""
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found


def of_requests(ids: Iterable[str | None]) -> AbstractContextManager[None]:
    """Let the lines that are written in here say of which requests they are."""
    known = list(dict.fromkeys(one for one in ids if one))
    return structlog.contextvars.bound_contextvars(**({"request_ids": known} if known else {}))


def bind(**values: str | None) -> None:
    """Let every line of the log that the running task writes from now on say so, and nothing of before."""
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(**{name: text for name, text in values.items() if text})
