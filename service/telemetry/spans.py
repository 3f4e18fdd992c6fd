"""Spans: what a request is made of, for a collector of traces; where nobody collects them there are none."""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from service.telemetry.logs import logger

# One of these says that spans are wanted; OpenTelemetry's own variables, read by its own SDK.
ASKED_BY = ("OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

log = logger("telemetry")


class BatchSpan:
    """A batch of which there is no span.

    Attributes:
        context: by which others are linked to it; None where there is nothing to link to.
    """

    context: Any = None

    def part(self, name: str, began_ns: int, seconds: float, *, error: str | None = None) -> None:
        """A part of the batch, which is over.

        Args:
            name: what was done.
            began_ns: when, since the epoch.
            seconds: how long it took.
            error: what went wrong, if anything did.
        """

    def failed(self, error: str) -> None:
        """The batch has no answer.

        Args:
            error: why.
        """


class Spans:
    """No spans, at no cost; and the contract of those that there are.

    Attributes:
        provider: for the framework, whose span of a request the others are children of; None where there is
            none.
    """

    provider: Any = None

    def child(self, name: str, **attributes: Any) -> AbstractContextManager[None]:
        """A part of what the running task does, as long as the context is open."""
        del name, attributes
        return _NOTHING

    def here(self) -> Any:
        """What the running task does, for a batch that is to be part of it."""
        return None

    def traceparent(self) -> tuple[bytes, str] | None:
        """The trace that the running task is part of: as a header says it, and its id."""
        return None

    def batch(
        self, requests: Sequence[Any], *, ensemble: str, rows: int
    ) -> AbstractContextManager[BatchSpan]:
        """A batch, as long as the context is open: a child of the first request in it, linked to the others.

        Args:
            requests: what ``here`` said, of each of them.
            ensemble: whose batch.
            rows: how many.
        """
        del requests, ensemble, rows
        return _NO_BATCH

    def link(self, batches: Sequence[Any]) -> None:
        """Link what the running task does to batches that others began.

        Args:
            batches: their contexts.
        """

    def close(self) -> None:
        """Send what has not been sent."""


_NOTHING = nullcontext()
_NO_BATCH = nullcontext(BatchSpan())


def wanted(environment: Mapping[str, str]) -> bool:
    """Whether spans are asked for."""
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environment.get(name) for name in ASKED_BY)


def open_spans() -> Spans:
    """The spans that the environment asks for."""
    if not wanted(os.environ):
        return Spans()
    try:
        from service.telemetry.otel import open_otel  # noqa: PLC0415 - an extra
    except ImportError as exc:
        log.warning("no spans", reason=f"a package is missing ({exc.name}): pip install 'soft-targets[otel]'")
        return Spans()
    return open_otel(os.environ)
