"""``POST /v2/models/{model}/infer`` as a plain ASGI endpoint: tensors in, tensors out, all rows or none."""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from service.api import bodies
from service.api.access import key_of
from service.api.errors import ROW_STATUS
from service.api.observation import tell_rows
from service.api.soft_targets import while_listening
from service.api.v2 import coding, replies, requests
from service.api.v2.messages import short
from service.api.v2.models import Model, ensemble_of, model_of
from service.api.v2.outputs import Wanted, wanted_of, written
from service.api.v2.parameters import PREFIX
from service.api.v2.requests import Asked
from service.api.v2.statistics import Statistics, Times
from service.batching.intake import Load
from service.config import Limits
from service.engine.engine import Engine
from service.engine.ensemble import Effective, Ensemble
from service.errors import BadInput, BadQuery, RowsFailed, ServiceError
from service.model import Group, RowFailure
from soft_targets.wire import MAX_BATCH_BYTES

# Reading so much of JSON or of tensors, or writing so much of a reply, takes about a millisecond: above it,
# it leaves the event loop.
LONG_JSON_BYTES, LONG_BODY_BYTES, LONG_REPLY_BYTES = 1 << 18, 1 << 21, 1 << 18
ROWS_NAMED = 8
LONGEST_NUMBER = 19  # digits of a size in bytes


class Infer:
    """The endpoint.

    Args:
        engine: answers rows.
        limits: what a request may cost.
        statistics: counts requests.
    """

    def __init__(self, engine: Engine, limits: Limits, statistics: Statistics) -> None:
        self._engine = engine
        self._limits = limits
        self._statistics = statistics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        name, version = scope["path_params"]["model"], scope["path_params"].get("version")
        hosted = self._engine.hosted(ensemble_of(self._engine, name))
        with Load(self._engine.intake, key_of(scope)) as load, hosted as ensemble:
            call = _Call(ensemble, model_of(ensemble, name, version), scope, receive, send)
            began = time.perf_counter_ns()
            try:
                if scope["query_string"]:
                    raise BadQuery("parameters of inference stand in the body, not in the address")
                await self._handle(call, load)
            except ServiceError:
                self._statistics.failed(call.model, time.perf_counter_ns() - began)
                raise

    async def _handle(self, call: "_Call", load: Load) -> None:
        await load.admit()
        try:
            body = await self._body(call, load)
        except bodies.ClientGone:
            return
        began = time.perf_counter_ns()
        asked = await self._read(body, call)
        tell_rows(call.scope, asked.rows)
        effective = call.ensemble.effective(call.model.effective.name, asked.parameters.overrides)
        wanted = wanted_of(effective.layout, asked)
        row_bytes = effective.layout.row_bytes + sum(output.row_bytes for output in wanted)
        await load.take(rows=asked.rows, size=asked.rows * row_bytes)
        await while_listening(call.receive, self._answer(call, _Work(asked, effective, wanted), began))

    async def _body(self, call: "_Call", load: Load) -> bytes | bytearray:
        """The whole body, inflated."""
        compressed = coding.coding_of(call.headers.get("content-encoding", ""))
        plain = Headers(raw=[one for one in call.headers.raw if one[0] != b"content-encoding"])
        limit = int(self._limits.max_body_bytes)
        body = await bodies.whole(plain, call.receive, limit=limit, load=load)
        if compressed is None:
            return body
        inflated = bytearray()
        pieces = coding.inflate(body, compressed, limit=int(self._limits.max_decompressed_bytes))
        while piece := await asyncio.to_thread(next, pieces, b""):
            load.add(size=len(piece))
            inflated += piece
        return inflated

    async def _read(self, body: bytes | bytearray, call: "_Call") -> Asked:
        """The request in a body, read aside from the event loop where that takes long."""
        json_bytes = _json_bytes(call.headers, len(body))
        inputs = call.ensemble.inputs
        if json_bytes is None:
            return requests.read_raw(body, inputs)
        target = requests.Target(call.model.name, call.model.version)
        read = partial(requests.read, body, json_bytes, target, inputs, self._limits)
        if json_bytes > LONG_JSON_BYTES or len(body) > LONG_BODY_BYTES:
            return await asyncio.to_thread(read)
        return read()

    async def _answer(self, call: "_Call", work: "_Work", began: int) -> None:
        read = time.perf_counter_ns()
        rows = await self._rows(call.ensemble, work.effective, work.asked)
        answered = time.perf_counter_ns()
        compression = coding.accepted(call.headers.get("accept-encoding", ""))
        encode = partial(_encode, call, work, rows, compression)
        size = work.asked.rows * sum(output.row_bytes for output in work.wanted)
        aside = compression is not None or size > LONG_REPLY_BYTES
        with self._engine.spans.child("encode", rows=work.asked.rows):
            reply = await asyncio.to_thread(encode) if aside else encode()
        self._statistics.answered(
            call.model,
            Times(read - began, answered - read, time.perf_counter_ns() - answered),
            computed=rows.sources.count("miss"),
            kept=bool(rows.sources) and set(rows.sources) == {"hit"},
            now_ms=time.time_ns() // 1_000_000,
        )
        await _send(call.send, reply)

    async def _rows(self, ensemble: Ensemble, effective: Effective, asked: Asked) -> Group:
        """All rows of a request in their order.

        Raises:
            RowsFailed: one has no target, or not in time.
        """
        count = asked.rows
        values: list[bytes | None] = [None] * count
        rows = Group(list(range(count)), [""] * count, values, [None] * count, [()] * count)
        if not count:
            return rows
        timeout_s = asked.parameters.timeout_s
        answer = self._engine.answer(ensemble, effective, asked.inputs)
        try:
            async with asyncio.timeout(timeout_s), contextlib.aclosing(answer) as groups:
                async for group in groups:
                    for row, source, value, failure, missing in zip(*group, strict=True):
                        rows.sources[row], rows.values[row] = source, value
                        rows.failures[row], rows.missing[row] = failure, missing
        except TimeoutError:
            late = RowFailure("deadline_exceeded", f"not answered within the timeout of {timeout_s} s")
            for row, source in enumerate(rows.sources):
                if not source:
                    rows.failures[row] = late
        _check_all(rows)
        return rows


class _Call(NamedTuple):
    """A request on its way: who is asked, and the connection."""

    ensemble: Ensemble
    model: Model
    scope: Scope
    receive: Receive
    send: Send

    @property
    def headers(self) -> Headers:
        """Of the request."""
        return Headers(scope=self.scope)


class _Work(NamedTuple):
    """What is to be answered: the request, its recipe, and the outputs of the reply."""

    asked: Asked
    effective: Effective
    wanted: list[Wanted]


def _json_bytes(headers: Headers, size: int) -> int | None:
    """How much of a body is JSON; None where it is nothing but a row.

    Raises:
        BadInput: the header is no such number.
    """
    said = headers.get(replies.HEADER_LENGTH)
    if said is None:
        return size
    if not (said.isascii() and said.isdigit() and len(said) <= LONGEST_NUMBER) or int(said) > size:
        raise BadInput(
            f"Inference-Header-Content-Length is {short(said)}: give the bytes of the JSON, of {size} in the "
            "body before it is compressed"
        )
    return int(said) or None


def _check_all(rows: Group) -> None:
    """Refuse a request of which a row has no target: the protocol has no errors of rows.

    Raises:
        RowsFailed: naming the first of them, by the failure that asking again helps least.
    """
    failures = {row: failure for row, failure in enumerate(rows.failures) if failure is not None}
    if not failures:
        return
    worst = min((failure.code for failure in failures.values()), key=lambda code: ROW_STATUS.get(code, 500))
    told = [f"row {row}: {failure.message}" for row, failure in list(failures.items())[:ROWS_NAMED]]
    if len(failures) > ROWS_NAMED:
        told.append(f"and {len(failures) - ROWS_NAMED} more")
    raise RowsFailed(
        f"{len(failures)} of {len(rows.rows)} rows have no target, and all are answered or none: "
        + "; ".join(told),
        row_code=worst,
    )


def _encode(call: _Call, work: _Work, rows: Group, compression: str | None) -> replies.Reply:
    head = {
        "model_name": call.model.name,
        "model_version": call.model.version,
        "id": work.asked.id,
        "parameters": _said(work.effective, rows),
    }
    values = [value for value in rows.values if value is not None]
    outputs = written(work.wanted, work.effective.layout, call.ensemble.classes, values)
    return replies.encode(head, outputs, compression)


def _said(effective: Effective, rows: Group) -> Mapping[str, Any]:
    """What a reply says of its targets; text, numbers and booleans are all that parameters hold."""
    said: dict[str, Any] = {
        f"{PREFIX}fingerprint": effective.fingerprint,
        f"{PREFIX}temperature": effective.recipe.temperature,
        f"{PREFIX}certificate": effective.certificate.id,
    }
    if effective.certificate.violations:
        said[f"{PREFIX}violations"] = ",".join(effective.certificate.violations)
    degraded: dict[str, list[int]] = {}
    for row, names in enumerate(rows.missing):
        for name in names:
            degraded.setdefault(name, []).append(row)
    if degraded:
        said[f"{PREFIX}missing_teachers"] = json.dumps(degraded, separators=(",", ":"))
    return said


async def _send(send: Send, reply: replies.Reply) -> None:
    """Send a reply with its length, a piece at a time: the rest waits here until what was sent has left."""
    headers = {**reply.headers, "content-length": str(len(reply.body))}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": raw})
    view, start = memoryview(reply.body), 0
    while len(view) - start > MAX_BATCH_BYTES:
        piece = bytes(view[start : start + MAX_BATCH_BYTES])
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        start += MAX_BATCH_BYTES
    await send({"type": "http.response.body", "body": bytes(view[start:])})
