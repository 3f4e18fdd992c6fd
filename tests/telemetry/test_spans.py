"""Spans: what a request is made of."""

import asyncio
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from inference_server import InferenceServer, Model
from observed import CONFIG, PATH
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from service.telemetry import open_spans
from service.telemetry.otel import OtelSpans
from service.telemetry.spans import Spans, wanted

BODY = {"inputs": {"x": [[1, 2, 3, 4], [5, 6, 7, 8]]}}
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Traced:
    """A server whose spans stay in memory."""

    def __init__(self, observe, text=CONFIG):
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.toy = observe(text, OtelSpans(provider))

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def children(self, span):
        return sorted(
            one.name for one in self.spans if one.parent and one.parent.span_id == span.context.span_id
        )


@pytest.fixture
def traced(observe):
    return Traced(observe)


SERVER = "POST /v1/ensembles/{ensemble}/soft-targets"


def test_a_request_is_a_span_with_its_parts(traced):
    with traced.toy.client() as client:
        client.post(PATH, json=BODY).raise_for_status()
    (request,) = traced.named(SERVER)
    assert traced.children(request) == ["batch", "cache.lookup", "encode"]
    (batch,) = traced.named("batch")
    assert traced.children(batch) == ["fuse", "teacher.one", "teacher.two"]
    assert batch.attributes == {"soft_targets.ensemble": "toy", "soft_targets.rows": 2}
    assert {span.context.trace_id for span in traced.spans} == {request.context.trace_id}
    for part in ("fuse", "teacher.one", "teacher.two"):
        (span,) = traced.named(part)
        assert batch.start_time <= span.start_time <= span.end_time <= batch.end_time


def test_a_teacher_elsewhere_is_told_of_the_trace(observe):
    model = Model([("x", "FP32", [-1, 4])], [("p", "FP32", [-1, 3])], lambda given: {"p": given["x"][:, :3]})
    with InferenceServer({"m": model}) as server:
        traced = Traced(observe, CONFIG.replace("fake://?classes=3&features=4&seed=2", server.address("m")))
        assert all("traceparent" not in one.headers for one in server.received)
        server.received.clear()
        with traced.toy.client() as client:
            client.post(PATH, json=BODY).raise_for_status()
        (batch,) = traced.named("batch")
        ids = f"{batch.context.trace_id:032x}-{batch.context.span_id:016x}"
        assert [one.headers.get("traceparent") for one in server.received] == [
            f"00-{ids}-{batch.context.trace_flags:02x}"
        ]


def test_what_went_wrong_is_an_error_in_its_span(observe):
    traced = Traced(observe, CONFIG.replace("seed=2", "seed=2&raise_above=4"))
    with traced.toy.client() as client:
        client.post(PATH, json=BODY).raise_for_status()
    (failed,), (sound,) = traced.named("teacher.two"), traced.named("teacher.one")
    assert failed.status.status_code is StatusCode.ERROR
    assert "two" in failed.status.description
    assert sound.status.is_unset


def test_a_batch_without_an_answer_is_an_error(traced, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(traced.toy.engine.ensemble("toy").plans, "run", broken)
    with traced.toy.client() as client:
        client.post(PATH, json=BODY).raise_for_status()
    (batch,) = traced.named("batch")
    assert batch.status.status_code is StatusCode.ERROR
    assert "no memory" in batch.status.description


def test_a_hit_needs_no_teacher(traced):
    with traced.toy.client() as client:
        client.post(PATH, json=BODY).raise_for_status()
        traced.exporter.clear()
        client.post(PATH, json=BODY).raise_for_status()
    (request,) = traced.named(SERVER)
    assert traced.children(request) == ["cache.lookup", "encode"]


def test_a_request_is_part_of_its_client_s_trace_and_says_so(traced):
    with traced.toy.client() as client:
        reply = client.post(PATH, json=BODY, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    (request,) = traced.named(SERVER)
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert reply.headers["traceparent"] == f"00-{TRACE}-{request.context.span_id:016x}-01"


async def test_who_joins_a_row_is_linked_to_the_batch_that_computes_it(observe, rows):
    traced = Traced(observe, CONFIG.replace("seed=1", "seed=1&delay_ms=50"))
    tracer = traced.toy.engine.spans.provider.get_tracer("test")

    async def ask(name):
        with tracer.start_as_current_span(name):
            return await traced.toy.ask(rows[:3], close=False)

    sources = await asyncio.gather(ask("first"), ask("second"))
    assert sources == [["miss"] * 3, ["coalesced"] * 3]
    await traced.toy.engine.close()
    (batch,) = traced.named("batch")
    (first,), (second,) = traced.named("first"), traced.named("second")
    assert batch.parent.span_id == first.context.span_id
    assert first.links == ()
    assert [link.context.span_id for link in second.links] == [batch.context.span_id]


async def test_a_batch_of_several_requests_is_linked_to_them(observe, rows):
    traced = Traced(observe, CONFIG.replace("seed=1", "seed=1&delay_ms=50"))
    tracer = traced.toy.engine.spans.provider.get_tracer("test")

    async def ask(name, part):
        with tracer.start_as_current_span(name):
            return await traced.toy.ask(part, close=False)

    # The first one occupies the device; the other two are in the next batch together.
    await asyncio.gather(ask("first", rows[:1]), ask("second", rows[1:3]), ask("third", rows[3:5]))
    await traced.toy.engine.close()
    (_, together) = sorted(traced.named("batch"), key=lambda span: span.start_time)
    (second,), (third,) = traced.named("second"), traced.named("third")
    assert together.parent.span_id == second.context.span_id
    assert [link.context.span_id for link in together.links] == [third.context.span_id]


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_spans_are_made_where_the_environment_asks_for_them(environment, expected):
    assert wanted(environment) is expected


def test_the_exporter_is_made_of_the_standard_variables(monkeypatch, capsys):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "teachers")
    spans = open_spans()
    with spans.child("part", rows=3):
        pass
    spans.close()
    told = capsys.readouterr()
    assert told.out == ""
    assert '"service.name": "teachers"' in told.err
    assert '"soft_targets.rows": 3' in told.err


def test_spans_are_sent_where_the_variables_say(monkeypatch):
    received = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            received.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        spans = open_spans()
        with spans.child("cache.lookup"):
            pass
        spans.close()
        collector.shutdown()
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"cache.lookup" in body
    assert b"soft-targets" in body


def test_without_the_extra_there_are_no_spans_and_no_error(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.delitem(sys.modules, "service.telemetry.otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert type(open_spans()) is Spans
