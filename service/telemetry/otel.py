"""Spans by OpenTelemetry; its SDK is an extra."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Link, NonRecordingSpan, Span, SpanContext, StatusCode

from service.telemetry.correlation import outgoing_traceparent
from service.telemetry.logs import logger
from service.telemetry.spans import BatchSpan, Spans

NAME = "soft-targets"

log = logger("telemetry")


class OtelSpans(Spans):
    """Spans of one provider, which is nobody else's.

    Args:
        provider: that makes and exports them.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self.provider: TracerProvider = provider
        self._tracer = provider.get_tracer(NAME)

    @contextmanager
    def child(self, name: str, **attributes: Any) -> Iterator[None]:
        """As of ``Spans``."""
        # Never the current one: a generator in which it was made so may be ended from elsewhere.
        with_prefix = {f"soft_targets.{key}": value for key, value in attributes.items()}
        span = self._tracer.start_span(name, attributes=with_prefix)
        try:
            yield
        finally:
            span.end()

    def here(self) -> SpanContext | None:
        """As of ``Spans``."""
        context = trace.get_current_span().get_span_context()
        return context if context.is_valid else None

    def traceparent(self) -> tuple[bytes, str] | None:
        """As of ``Spans``."""
        context = self.here()
        if context is None:
            return None
        return _header(context).encode("ascii"), trace.format_trace_id(context.trace_id)

    @contextmanager
    def batch(self, requests: Sequence[Any], *, ensemble: str, rows: int) -> Iterator[BatchSpan]:
        """As of ``Spans``."""
        first, *others = {one.span_id: one for one in requests if one is not None}.values() or (None,)
        span = self._tracer.start_span(
            "batch",
            _inside(first) if first is not None else None,
            links=[Link(one) for one in others if one is not None],
            attributes={"soft_targets.ensemble": ensemble, "soft_targets.rows": rows},
        )
        passed_on = outgoing_traceparent.set(_header(span.get_span_context()))
        try:
            yield _OtelBatch(self._tracer, span)
        finally:
            outgoing_traceparent.reset(passed_on)
            span.end()

    def link(self, batches: Sequence[Any]) -> None:
        """As of ``Spans``."""
        span = trace.get_current_span()
        for context in {one.span_id: one for one in batches if one is not None}.values():
            span.add_link(context)

    def close(self) -> None:
        """As of ``Spans``."""
        self.provider.shutdown()


class _OtelBatch(BatchSpan):
    def __init__(self, tracer: trace.Tracer, span: Span) -> None:
        self.context: SpanContext = span.get_span_context()
        self._tracer = tracer
        self._span = span

    def part(self, name: str, began_ns: int, seconds: float, *, error: str | None = None) -> None:
        span = self._tracer.start_span(name, _inside(self.context), start_time=began_ns)
        if error is not None:
            span.set_status(StatusCode.ERROR, error)
        span.end(began_ns + int(seconds * 1e9))

    def failed(self, error: str) -> None:
        self._span.set_status(StatusCode.ERROR, error)


def _header(context: SpanContext) -> str:
    trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return f"00-{trace_id}-{span_id}-{int(context.trace_flags):02x}"


def _inside(context: SpanContext) -> Any:
    return trace.set_span_in_context(NonRecordingSpan(context))


def open_otel(environment: Mapping[str, str]) -> Spans:
    """Spans that go where OpenTelemetry's variables say; sampling, batching and the rest are theirs too."""
    resource = Resource.create({} if "OTEL_SERVICE_NAME" in environment else {"service.name": NAME})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for name in environment.get("OTEL_TRACES_EXPORTER", "otlp").split(","):
        exporter: SpanExporter
        if name.strip() == "otlp":
            exporter = OTLPSpanExporter()
        elif name.strip() == "console":
            exporter = ConsoleSpanExporter(out=sys.stderr)
        else:
            log.warning("no spans", reason=f"OTEL_TRACES_EXPORTER is {name!r}; known: otlp, console, none")
            continue
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return OtelSpans(provider)
