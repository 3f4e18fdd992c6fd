"""``POST /v1/ensembles/{ensemble}/soft-targets`` as a plain ASGI endpoint: rows in, soft targets out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from functools import partial

import pyarrow as pa
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from service.api import bodies, media, query
from service.api.access import key_of
from service.api.observation import tell_rows
from service.api.replies import Writer, writer_of
from service.batching.intake import Load
from service.config import Limits
from service.engine.engine import Engine
from service.engine.ensemble import Effective, Ensemble
from service.engine.groups import in_order
from service.errors import TooLarge
from service.model import Group
from service.telemetry import Spans
from soft_targets.wire import ARROW, Request

# Reading this much out of a body takes about a millisecond: above it, it leaves the event loop. Not below:
# while the loop is busy, getting back to it takes as long (docs/performance.md).
LONG_BODY_BYTES = {ARROW: 1 << 21, media.JSON: bodies.LONG_JSON_BYTES}
# Likewise for writing this much of values into a reply.
LONG_REPLY_BYTES = {ARROW: 1 << 18, media.JSON: 1 << 14, media.NDJSON: 1 << 14}


class SoftTargets:
    """The endpoint.

    Args:
        engine: answers rows.
        limits: what a request may cost.
    """

    def __init__(self, engine: Engine, limits: Limits) -> None:
        self._engine = engine
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        hosted = self._engine.hosted(scope["path_params"]["ensemble"])
        with Load(self._engine.intake, key_of(scope)) as load, hosted as ensemble:
            await self._handle(scope, receive, send, load, ensemble)

    async def _handle(
        self, scope: Scope, receive: Receive, send: Send, load: Load, ensemble: Ensemble
    ) -> None:
        headers = Headers(scope=scope)
        asked = query.parse(scope["query_string"])
        effective = ensemble.effective(asked.recipe, asked.overrides)
        body_media = media.of_body(headers.get("content-type", ""))
        reply = media.of_reply(headers.get("accept", ""), body_media)
        await load.admit()
        try:
            limit = int(self._limits.max_body_bytes)
            body = await bodies.whole(headers, receive, limit=limit, load=load)
        except bodies.ClientGone:
            return
        rows = await self._read(body, body_media, ensemble)
        tell_rows(scope, len(rows.row_ids))
        await load.take(rows=len(rows.row_ids), size=len(rows.row_ids) * effective.layout.row_bytes)
        answer = self._answer(send, ensemble, effective, rows=rows, order=asked.order, reply=reply)
        await while_listening(receive, answer)

    async def _read(self, body: bytes, body_media: str, ensemble: Ensemble) -> Request:
        """The rows in a body, read aside from the event loop where that takes long."""
        most, long = int(self._limits.max_decompressed_bytes), LONG_BODY_BYTES[body_media]
        read = partial(
            bodies.read,
            body,
            body_media,
            ensemble,
            max_rows=self._limits.max_rows_per_request,
            max_depth=self._limits.max_json_depth,
        )
        if len(body) <= long:
            try:
                return read(max_bytes=min(long, most))
            except TooLarge:
                pass  # it inflates to more than that, or does not fit at all
        return await asyncio.to_thread(read, max_bytes=most)

    async def _answer(
        self,
        send: Send,
        ensemble: Ensemble,
        effective: Effective,
        *,
        rows: Request,
        order: str,
        reply: media.Reply,
    ) -> None:
        row_ids = rows.row_ids
        if rows.digests is not None:
            answer = self._engine.recall(ensemble, effective, rows.digests)
        else:
            answer = self._engine.answer(ensemble, effective, rows.inputs or {})
        writer = writer_of(reply, ensemble, effective, row_ids.type)
        most = LONG_REPLY_BYTES[reply.media] // effective.layout.row_bytes
        async with contextlib.aclosing(answer) as found:
            groups = in_order(found, len(row_ids)) if order == "input" else found
            await _stream(send, reply.content_type, writer, row_ids, groups, most, self._engine.spans)


async def _stream(  # noqa: PLR0917 - a reply's parts
    send: Send,
    content_type: str,
    writer: Writer,
    row_ids: pa.Array,
    groups: AsyncIterator[Group],
    most: int,
    spans: Spans,
) -> None:
    """Send a reply as its rows are finished, a piece at a time.

    Groups of more than ``most`` rows are written aside from the event loop.
    """
    everyone = list(range(len(row_ids)))
    started = False
    async for group in groups:
        errors = [failure and (failure.code, failure.message) for failure in group.failures]
        ids = row_ids if group.rows == everyone else row_ids.take(pa.array(group.rows, pa.int64()))
        pieces = writer.group(ids, group.sources, group.values, errors, group.missing)
        aside = len(group.rows) > most
        while True:
            with spans.child("encode", rows=len(group.rows)):
                piece = await asyncio.to_thread(next, pieces, b"") if aside else next(pieces, b"")
            if not piece:
                break
            if not started and writer.rows == len(row_ids):
                await _send_whole(send, content_type, piece + writer.close())
                return
            if not started:
                await send(_start(content_type))
                started = True
            # Returns when what was sent before has left: of a client that does not read, one piece waits
            # here and one in the transport.
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            piece = b""  # else it would still be here while the next one is made
    if started:
        await send({"type": "http.response.body", "body": writer.close()})
    else:
        await _send_whole(send, content_type, writer.close())


async def while_listening(receive: Receive, work: Awaitable[None]) -> None:
    """Do the work as long as the client is there: nobody computes for one who hung up."""

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        until.reschedule(0)

    listening = asyncio.create_task(listen())
    try:
        async with asyncio.timeout(None) as until:
            await work
    except TimeoutError:
        if not until.expired():
            raise
    finally:
        listening.cancel()


async def _send_whole(send: Send, content_type: str, body: bytes) -> None:
    await send(_start(content_type, (b"content-length", b"%d" % len(body))))
    await send({"type": "http.response.body", "body": body})


def _start(content_type: str, *headers: tuple[bytes, bytes]) -> Message:
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", content_type.encode()), *headers],
    }
