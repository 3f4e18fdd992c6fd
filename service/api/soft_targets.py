"""``POST /v1/ensembles/{ensemble}/soft-targets`` as a plain ASGI endpoint: rows in, soft targets out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from functools import partial

import pyarrow as pa
from pydantic_core import to_json
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send

from service.api import bodies, media, query
from service.batching.intake import Load
from service.config import Limits
from service.engine.engine import Engine
from service.engine.ensemble import Effective, Ensemble
from service.engine.groups import in_order
from service.errors import TooLarge
from service.model import Group
from soft_targets.wire import ARROW, ReplyWriter, Request

# Reading this much out of a body takes about a millisecond: above it, it leaves the event loop. Not below:
# while the loop is busy, getting back to it takes as long (docs/performance.md).
LONG_BODY_BYTES = {ARROW: 1 << 21, media.JSON: 1 << 18}
# Likewise for writing this much into a reply.
LONG_REPLY_BYTES = 1 << 18


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
        with Load(self._engine.intake) as load, hosted as ensemble:
            await self._handle(scope, receive, send, load, ensemble)

    async def _handle(
        self, scope: Scope, receive: Receive, send: Send, load: Load, ensemble: Ensemble
    ) -> None:
        headers = Headers(scope=scope)
        asked = query.parse(scope["query_string"])
        effective = ensemble.effective(asked.recipe, asked.overrides)
        body_media = media.of_body(headers.get("content-type", ""))
        reply = media.of_reply(headers.get("accept", ""), body_media)
        try:
            limit = int(self._limits.max_body_bytes)
            body = await bodies.whole(headers, receive, limit=limit, load=load)
        except bodies.ClientGone:
            return
        most = self._limits.max_rows_per_request
        read = partial(bodies.read, body, body_media, ensemble, max_rows=most)
        long = LONG_BODY_BYTES[body_media]
        try:
            rows = read(max_bytes=long) if len(body) <= long else None
        except TooLarge:
            rows = None  # it inflates to more than that
        if rows is None:
            rows = await asyncio.to_thread(read)
        load.add(rows=len(rows.row_ids), size=len(rows.row_ids) * effective.layout.row_bytes)
        answer = self._answer(
            send,
            ensemble,
            effective,
            rows=rows,
            order=asked.order,
            reply=reply,
        )
        await _while_listening(receive, answer)

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
        async with contextlib.aclosing(answer) as found:
            groups = in_order(found, len(row_ids)) if order == "input" else found
            if reply.media == ARROW:
                await self._stream(send, effective, row_ids, groups, reply)
                return
            finished = [group async for group in groups]
        size = len(row_ids) * effective.layout.row_bytes
        encode = partial(_encode, ensemble, effective, row_ids, finished)
        body = await asyncio.to_thread(encode) if size > LONG_REPLY_BYTES else encode()
        await _send_whole(send, media.JSON, body)

    async def _stream(
        self,
        send: Send,
        effective: Effective,
        row_ids: pa.Array,
        groups: AsyncIterator[Group],
        reply: media.Reply,
    ) -> None:
        writer = ReplyWriter(
            effective.layout, row_id_type=row_ids.type, metadata=effective.metadata, codec=reply.codec
        )
        everyone = list(range(len(row_ids)))
        started = False
        async for group in groups:
            errors = [failure and (failure.code, failure.message) for failure in group.failures]
            whole = group.rows == everyone
            ids = row_ids if whole else row_ids.take(pa.array(group.rows, pa.int64()))
            pieces = writer.group(ids, group.sources, group.values, errors, group.missing)
            long = len(group.rows) * effective.layout.row_bytes > LONG_REPLY_BYTES
            if whole and not long:
                await _send_whole(send, reply.content_type, b"".join([*pieces, writer.close()]))
                return
            if not started:
                await send(_start(reply.content_type))
                started = True
            while piece := (await asyncio.to_thread(next, pieces, b"") if long else next(pieces, b"")):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": writer.close()})


def _encode(ensemble: Ensemble, effective: Effective, row_ids: pa.Array, groups: list[Group]) -> bytes:
    return to_json(bodies.reply(ensemble, effective, row_ids.to_pylist(), groups))


async def _while_listening(receive: Receive, work: Awaitable[None]) -> None:
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
