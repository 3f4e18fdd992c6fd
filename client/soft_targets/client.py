"""Asking servers for soft targets: requests out, answers joined by row id."""

import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import quote

import httpx2
import numpy as np

from soft_targets import wire
from soft_targets.asking import Ensemble, base_urls, get, post, query, read_ensemble
from soft_targets.distill import Distillation, Window
from soft_targets.errors import InputError, OtherFingerprint, RowId, SoftTargetsError, WireError
from soft_targets.exchange import Array, Join, Part, Prepared, Room, parts, prepare
from soft_targets.lookups import DigestFirst, Habit
from soft_targets.servers import Server
from soft_targets.session import Session, open_session
from soft_targets.stats import Stats, Tally
from soft_targets.targets import SoftTargets

__all__ = ["Client"]

_KEY = re.compile(r"[!-~]+")  # what can stand in a header, and is one word
_ROW_BYTES, _ANSWER_BYTES = 1 << 14, 1 << 20  # of an answer, besides its values: texts of errors, headers

Batch = TypeVar("Batch")
Errors = Literal["raise", "keep"]


class _Call(NamedTuple):
    """Rows that are asked for together, in one request or several."""

    prepared: Prepared
    join: Join
    tally: Tally
    stopping: threading.Event | None  # set once they are not wanted any more


class Client:
    """Soft targets of one ensemble and recipe; may be shared by threads and handed to other processes.

    Nothing is sent before the first question. Use it as a context manager, or call ``close``. All targets of
    a client have one fingerprint, the first answer's: a server that answers with another one is refused, so
    that targets do not change in the middle of a training. A process that was forked off, or that a client
    was pickled to, opens connections of its own.

    Args:
        base_url: where the server is, for instance ``http://teachers:8000``, or several replicas: the least
            loaded is asked, and another where one does not answer.
        ensemble: the ensemble's name.
        recipe: the recipe's name.
        temperature: instead of the recipe's, 0.1 to 100.
        weights: instead of the recipe's: teacher to weight; teachers not named have weight 0.
        top_k: instead of the recipe's: keep so many classes and the mass of the rest.
        dtype: of the log-probabilities; ``float16`` halves what is kept and sent, and costs an error of about
            5e-4 of each log-probability.
        compression: of the answers: ``zstd``, ``lz4`` or None; for slow networks.
        digest_first: whether rows are asked for by their digests, 32 bytes each, and sent only where the
            server does not have them: ``always``, ``never``, or ``auto``: where rows are large and the last
            answers were mostly known to it.
        timeout_s: seconds without any progress after which a request is given up; longer than the server's
            own 60 s, after which it answers for rows that are late.
        retry_s: seconds for which a request that failed for a reason that may pass is tried again (no answer,
            an incomplete or a garbled one, 408, 429, 502, 503, 504), with growing waits; 0 for not at all. At
            most 10 s until a server has answered for the first time. What is tried again is told to the
            logger ``soft_targets``.
        connections: how many requests may be under way at once.
        key: for a server that asks for one; it needs the scope ``targets:read``. Sent to ``base_url`` only,
            in the clear unless that is https.
        fingerprint: the one that all targets must have, where it is known beforehand, or where several
            processes ask: each goes by the first answer that it or the one it was forked off had.
        transport: how to reach the server, where httpx2's own way does not do (own certificates, a socket).

    Raises:
        InputError: an argument does not make sense.

    Example:
        >>> with Client("http://127.0.0.1:8000", ensemble="digits") as client:  # doctest: +SKIP
        ...     targets = client.soft_targets({"pixels": pixels})
        ...     targets.probabilities.sum(axis=1)
    """

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        ensemble: str,
        recipe: str = "default",
        temperature: float | None = None,
        weights: Mapping[str, float] | None = None,
        top_k: int | None = None,
        dtype: Literal["float32", "float16"] = "float32",
        compression: Literal["zstd", "lz4"] | None = None,
        digest_first: DigestFirst = "auto",
        timeout_s: float = 90.0,
        retry_s: float = 60.0,
        connections: int = 2,
        key: str | None = None,
        fingerprint: str | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name != "self"}
        self.base_urls = base_urls(base_url)
        self._arguments = given | {"base_url": self.base_urls}
        if connections < 1:
            raise InputError(f"connections must be at least 1, not {connections}")
        if not retry_s >= 0:
            raise InputError(f"retry_s must be at least 0, not {retry_s}")
        if not timeout_s > 0:
            raise InputError(f"timeout_s must be above 0, not {timeout_s}")
        if key is not None and not _KEY.fullmatch(key):
            raise InputError("the key is empty or holds a space, a line break or another sign no key has")
        if compression not in ("zstd", "lz4", None):
            raise InputError(f"compression must be 'zstd', 'lz4' or None, not {compression!r}")
        Habit(digest_first)
        self._path = f"/v1/ensembles/{quote(ensemble, safe='')}"
        self._params = query(recipe, temperature, weights, top_k, dtype)
        self._accept = wire.ARROW if compression is None else f'{wire.ARROW}; codecs="{compression}"'
        self._connections = connections
        self._fingerprint = fingerprint
        self._ensemble: Ensemble | None = None
        self._open: Callable[[], Session] = lambda: open_session(
            self.base_urls,
            digest_first=digest_first,
            timeout_s=timeout_s,
            retry_s=retry_s,
            connections=connections,
            key=key,
            transport=transport,
        )
        self._sessions: dict[int, Session] = {}  # by process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._arguments | {"fingerprint": self._fingerprint},)

    def close(self) -> None:
        """Stop what is under way and close all connections; may be called twice, and from any thread.

        Requests that were sent are waited for, at the longest until ``timeout_s`` ends them.
        """
        self._session.close()

    @property
    def stats(self) -> Stats:
        """A snapshot of what was done so far in this process; may be read at any time, from any thread."""
        return self._session.tally.stats

    @property
    def fingerprint(self) -> str | None:
        """Names all that determines this client's targets besides the inputs; None before the first."""
        return self._fingerprint

    def info(self) -> dict[str, Any]:
        """The server's description of the ensemble, fetched once: inputs, classes, teachers, recipes, limits.

        Raises:
            ServerUnreachable: no answer came.
            RequestRefused: the server does not know the ensemble, or may not tell.
            WireError: the answer is not a description.
        """
        return self._known().described

    def soft_targets(
        self,
        inputs: Mapping[str, Any],
        *,
        row_ids: Sequence[RowId] | Array | None = None,
        errors: Errors = "raise",
        pin_memory: bool = False,
    ) -> SoftTargets:
        """Ask for the soft targets of B rows, in as many requests as the limits want.

        Args:
            inputs: the ensemble's inputs by name, each ``[B, ...]``: numpy arrays, torch tensors or lists.
            row_ids: B unique ids, non-negative integers or text, by which rows are named in targets and
                errors; 0, 1, 2 ... by default.
            errors: whether rows that the server answered with an error raise, or are kept in the targets:
                see ``SoftTargets.errors`` and ``valid``.
            pin_memory: whether the arrays are in memory that a GPU copies from without waiting.

        Returns:
            The targets, in the order of the inputs whatever the order of the answers.

        Raises:
            InputError: names, dtypes, shapes or ids do not fit; nothing was sent.
            ServerUnreachable: no answer came.
            RequestRefused: the server refused a request.
            FailedRows: some rows have no target; raised when all requests are answered.
            IncompleteStream: an answer was cut, or its rows are not the rows asked for.
            OtherFingerprint: an answer has another fingerprint than the first.
            WireError: an answer does not follow the wire format.
        """
        _check_errors(errors)
        room = _room(pin_memory=pin_memory)
        return self._answer(self._prepare(inputs, row_ids), errors, self._session.tally, room)

    def distill(
        self,
        loader: Iterable[Batch],
        *,
        inputs: Callable[[Batch], Mapping[str, Any]],
        row_ids: Callable[[Batch], Sequence[RowId] | Array] | None = None,
        prefetch: int = 4,
        prefetch_rows: int = 16384,
        prefetch_bytes: int = 256 * 1024 * 1024,
        errors: Errors = "raise",
        pin_memory: bool = False,
        progress: bool = False,
    ) -> Distillation[Batch]:
        """A loader with the soft targets of each batch beside it, asked for ahead of time.

        Each time it is gone through is an epoch. Order and batches are the loader's. A background thread
        reads the loader ahead, as far as all three bounds allow; one batch is always asked for. What was read
        ahead when the loop is left is lost. An error of the loader, of ``inputs`` or of a request is raised
        in place of its batch, and ends the epoch.

        Args:
            loader: any iterable of batches, for instance a torch ``DataLoader``.
            inputs: a batch to the ensemble's inputs; called in the background thread.
            row_ids: a batch to its rows' ids, by which errors name them; else their places in the batch.
            prefetch: how many batches may be asked for ahead, at least 1.
            prefetch_rows: how many rows may be.
            prefetch_bytes: how many bytes of inputs and targets may be.
            errors: as in ``soft_targets``.
            pin_memory: as in ``soft_targets``.
            progress: whether a bar shows rows, stall, hit rate and bytes where the standard error is a
                terminal; needs the extra ``progress``.

        Returns:
            An iterable of (batch, targets), with ``stats``, ``state_dict`` and ``load_state_dict``.

        Raises:
            InputError: an argument does not make sense.
        """
        _check_errors(errors)
        bounds = {"prefetch": prefetch, "prefetch_rows": prefetch_rows, "prefetch_bytes": prefetch_bytes}
        for name, value in bounds.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        session, tally, room = self._session, Tally(self._session.tally), _room(pin_memory=pin_memory)

        def ready(batch: Batch) -> Prepared:
            return self._prepare(inputs(batch), row_ids and row_ids(batch))

        def fetch(prepared: Prepared, stopping: threading.Event | None = None) -> SoftTargets:
            return self._answer(prepared, errors, tally, room, stopping)

        return Distillation(
            loader,
            prepare=ready,
            fetch=fetch,
            target_bytes=self._target_bytes,
            window=lambda: Window(batches=prefetch, rows=prefetch_rows, bytes=prefetch_bytes),
            connections=self._connections,
            tally=tally,
            begin_epoch=session.habit.begin_epoch,
            streams=session.streams,
            fingerprint=lambda: self._fingerprint,
            expect=self._expect,
            progress=progress,
        )

    @property
    def _session(self) -> Session:
        pid = os.getpid()
        session = self._sessions.get(pid)
        # Without a lock, which a fork could leave locked: the first to be kept is everybody's.
        return session or self._sessions.setdefault(pid, self._open())

    def _prepare(self, inputs: Mapping[str, Any], row_ids: Sequence[RowId] | Array | None) -> Prepared:
        return prepare(inputs, self._known().specs, row_ids=row_ids)

    def _answer(
        self,
        prepared: Prepared,
        errors: Errors,
        tally: Tally,
        room: Room,
        stopping: threading.Event | None = None,
    ) -> SoftTargets:
        known, session = self._known(), self._session
        join = Join(
            prepared.row_ids,
            known.classes,
            classes_digest=known.classes_digest,
            agree=self._agree,
            room=room,
        )
        call = _Call(prepared, join, tally, stopping)
        cuts = parts(prepared, max_rows=known.max_rows, max_bytes=known.max_bytes)
        session.each(cuts, lambda one: self._fetch(one, call))
        targets = join.finish(keep_errors=errors == "keep")
        tally.add(sources=targets.source)
        return targets

    def _fetch(self, cut: slice, call: _Call) -> None:
        """Have the rows of one request answered: by digest if that pays, then those that are absent whole."""
        session, specs, prepared = self._session, self._known().specs, call.prepared
        rows = np.arange(cut.start, cut.stop)
        arrays = {name: values[cut] for name, values in prepared.arrays.items()}
        by_digest = session.habit.by_digest(float(prepared.sizes[cut].mean()))
        if by_digest:
            part = session.part(rows)
            body = wire.encode_digests(wire.row_digests(arrays, specs), part.wire_ids)
            sources, absent = self._exchange(part, body, call, by_digest=True)
            session.habit.learn(sources)
            if not len(absent):
                return
            rows, arrays = rows[absent], {name: values[absent] for name, values in arrays.items()}
        part = session.part(rows)
        sources, _ = self._exchange(part, wire.encode_request(arrays, part.wire_ids), call, by_digest=False)
        if not by_digest:  # else these are the rows that were absent, which is known already
            session.habit.learn(sources)

    def _exchange(self, part: Part, body: bytes, call: _Call, *, by_digest: bool) -> tuple[list[str], Array]:
        """One request and its answer: the rows' sources, and the places in the part of those absent."""
        session, tally = self._session, call.tally
        max_bytes = _ANSWER_BYTES + len(part.rows) * (_ROW_BYTES + self._target_bytes())

        def send(server: Server) -> tuple[int, list[str], Array]:
            def read(answer: bytes, broken: Exception | None) -> tuple[int, list[str], Array]:
                came = call.join.add(part, answer, broken=broken, by_digest=by_digest, max_bytes=max_bytes)
                return len(answer), *came

            path, params = f"{self._path}/soft-targets", self._params
            try:
                return post(server, path, params, body, read, accept=self._accept, max_bytes=max_bytes)
            except OtherFingerprint as exc:
                raise OtherFingerprint(f"{server.base_url}: {exc}") from None
            except WireError as exc:
                exc.add_note(f"this is what {server.base_url} answered")
                raise

        received, sources, absent = session.servers.ask(
            send, retried=lambda: tally.add(retries=1), stopping=call.stopping
        )
        tally.add(requests=1, sent_bytes=len(body), received_bytes=received)
        return sources, absent

    def _target_bytes(self) -> int:
        """What a row's target takes at most: an index and a log-probability a class, and three numbers."""
        return 8 * len(self._known().classes) + 12

    def _agree(self, fingerprint: str) -> None:
        """Refuse an answer of another fingerprint than the first."""
        self._expect(fingerprint)
        if self._fingerprint != fingerprint:
            kept = "earlier ones" if self._arguments["fingerprint"] is None else "this client was made for"
            raise OtherFingerprint(
                f"this answer has the fingerprint {fingerprint}, {kept} {self._fingerprint}: "
                "the ensemble was changed meanwhile; make a new client"
            )

    def _expect(self, fingerprint: str) -> None:
        """Take only targets of this fingerprint from now on."""
        with self._session.pinning:
            if self._fingerprint is None:
                self._fingerprint = fingerprint

    def _known(self) -> Ensemble:
        session = self._session
        if session.closed:
            raise SoftTargetsError("this client is closed; make a new one")
        if self._ensemble is None:
            with session.describing:
                self._ensemble = self._ensemble or session.servers.ask(
                    lambda server: read_ensemble(get(server, self._path)),
                    retried=lambda: session.tally.add(retries=1),
                )
        return self._ensemble


def _restored(arguments: dict[str, Any]) -> Client:
    """A client that was pickled."""
    return Client(**arguments)


def _check_errors(errors: str) -> None:
    if errors not in ("raise", "keep"):
        raise InputError(f"errors must be 'raise' or 'keep', not {errors!r}")


def _room(*, pin_memory: bool) -> Callable[[tuple[int, ...], Any], Array]:
    if not pin_memory:
        return np.empty
    from soft_targets.tensors import pinned  # noqa: PLC0415 - torch is needed by those alone who ask

    pinned((0,), np.float32)  # so that nothing is sent where it cannot be had
    return pinned
