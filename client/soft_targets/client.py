"""Asking a server for soft targets: requests out, answers joined by row id."""

import re
import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx2
import numpy as np

from soft_targets import wire
from soft_targets.asking import Ensemble, query, read_ensemble, refusal
from soft_targets.distill import Prefetcher
from soft_targets.errors import (
    InputError,
    RowId,
    ServerUnreachable,
    SoftTargetsError,
    WireError,
)
from soft_targets.exchange import Join, parts, prepare
from soft_targets.targets import SoftTargets

__all__ = ["Client", "Stats"]

KEEPALIVE_S = 60.0  # below the server's 75 s: never reuse a connection that it is just closing
OK = 200
_KEY = re.compile(r"[!-~]+")  # what can stand in a header, and is one word

Array = np.ndarray[Any, Any]
Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Stats:
    """What a client has done so far.

    Attributes:
        rows: rows that have a soft target.
        rows_by_source: the same rows by where the server had them from: ``hit``, ``miss``, ...
        requests: requests that were answered with targets.
        sent_bytes: bytes of their bodies.
        received_bytes: bytes of their answers.
        waited_s: seconds the consumer of ``distill`` stood still for targets or the loader.
    """

    rows: int = 0
    rows_by_source: Mapping[str, int] = field(default_factory=dict)
    requests: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    waited_s: float = 0.0


class Client:
    """Soft targets of one ensemble and recipe, from one server; may be shared by threads.

    Nothing is sent before the first question. Use it as a context manager, or call ``close``. All targets of
    a client have one fingerprint: where the server starts to answer with another one, every call raises, so
    that targets do not change in the middle of a training.

    Args:
        base_url: where the server is, for instance ``http://teachers:8000``.
        ensemble: the ensemble's name.
        recipe: the recipe's name.
        temperature: instead of the recipe's, 0.1 to 100.
        weights: instead of the recipe's: teacher to weight; teachers not named have weight 0.
        top_k: instead of the recipe's: keep so many classes and the mass of the rest.
        timeout_s: seconds without any progress after which a request is given up; longer than the server's
            own 60 s, after which it answers for rows that are late.
        connections: how many requests may be under way at once.
        key: for a server that asks for one; it needs the scope ``targets:read``. Sent to ``base_url`` only,
            in the clear unless that is https.
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
        base_url: str,
        *,
        ensemble: str,
        recipe: str = "default",
        temperature: float | None = None,
        weights: Mapping[str, float] | None = None,
        top_k: int | None = None,
        timeout_s: float = 90.0,
        connections: int = 2,
        key: str | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        try:
            url = httpx2.URL(self.base_url)
        except httpx2.InvalidURL as exc:
            raise InputError(f"base_url {base_url!r} is no address: {exc}") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(f"base_url must look like http://host:8000, not {base_url!r}")
        if connections < 1:
            raise InputError(f"connections must be at least 1, not {connections}")
        if key is not None and not _KEY.fullmatch(key):
            raise InputError("the key is empty or holds a space, a line break or another sign no key has")
        self._path = f"/v1/ensembles/{quote(ensemble, safe='')}"
        self._params = query(recipe, temperature, weights, top_k)
        self._connections = connections
        self._ensemble: Ensemble | None = None
        self._asking = threading.Lock()
        self._counting = threading.Lock()
        self._pinning = threading.Lock()
        self._fingerprint: str | None = None
        self._stats = Stats()
        self._streams: set[Prefetcher[Any]] = set()
        self._http = httpx2.Client(
            base_url=url,
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            # Waiting for a free connection has no limit of its own: those who hold them have theirs.
            timeout=httpx2.Timeout(timeout_s, pool=None),
            limits=httpx2.Limits(
                max_connections=connections,
                max_keepalive_connections=connections,
                keepalive_expiry=KEEPALIVE_S,
            ),
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop what ``distill`` has under way and close all connections."""
        for stream in list(self._streams):
            stream.close()
        self._http.close()

    @property
    def stats(self) -> Stats:
        """A snapshot of what was done so far; may be read while ``distill`` runs, from any thread."""
        return self._stats

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
        self, inputs: Mapping[str, Any], *, row_ids: Sequence[RowId] | Array | None = None
    ) -> SoftTargets:
        """Ask for the soft targets of B rows, in as many requests as the limits want.

        Args:
            inputs: the ensemble's inputs by name, each ``[B, ...]``: numpy arrays, torch tensors or lists.
            row_ids: B unique ids, non-negative integers or text; 0, 1, 2 ... by default.

        Returns:
            The targets, in the order of the inputs whatever the order of the answers.

        Raises:
            InputError: names, dtypes, shapes or ids do not fit; nothing was sent.
            ServerUnreachable: no answer came.
            RequestRefused: the server refused a request.
            FailedRows: some rows have no target; raised when all requests are answered.
            IncompleteStream: an answer was cut, or its rows are not the rows asked for.
            WireError: an answer does not follow the wire format, or has another fingerprint than the first.
        """
        known = self._known()
        arrays, ids = prepare(inputs, known.specs, row_ids=row_ids)
        join = Join(ids.to_pylist(), known.classes, agree=self._pin)
        for part in parts(arrays, ids, max_rows=known.max_rows, max_bytes=known.max_bytes):
            body = wire.encode_request({name: rows[part] for name, rows in arrays.items()}, ids[part])
            answer, broken = self._post(body)
            join.add(part, answer, broken=broken)
            self._count(requests=1, sent_bytes=len(body), received_bytes=len(answer))
        targets = join.finish()
        self._count(sources=targets.source)
        return targets

    def distill(
        self,
        loader: Iterable[Batch],
        *,
        inputs: Callable[[Batch], Mapping[str, Any]],
        prefetch: int = 4,
    ) -> Generator[tuple[Batch, SoftTargets], None, None]:
        """Go through a loader with the soft targets of each batch beside it, asked for ahead of time.

        Order and batches are the loader's; call it again for the next epoch. A background thread reads the
        loader up to ``prefetch`` batches ahead; what was read ahead when the loop is left is lost. An error
        of the loader, of ``inputs`` or of a request is raised in place of its batch, and ends the stream.

        Args:
            loader: any iterable of batches, for instance a torch ``DataLoader``.
            inputs: a batch to the ensemble's inputs; called in the background thread.
            prefetch: how many batches may be asked for ahead, at least 1.

        Returns:
            A generator of (batch, targets).

        Raises:
            InputError: prefetch is below 1.
        """
        if prefetch < 1:
            raise InputError(f"prefetch must be at least 1, not {prefetch}")
        return self._distill(loader, inputs, prefetch)

    def _distill(
        self, loader: Iterable[Batch], inputs: Callable[[Batch], Mapping[str, Any]], prefetch: int
    ) -> Generator[tuple[Batch, SoftTargets], None, None]:
        stream = Prefetcher(
            loader,
            inputs=inputs,
            fetch=self.soft_targets,
            prefetch=prefetch,
            connections=self._connections,
            waited=lambda seconds: self._count(waited_s=seconds),
        )
        self._streams.add(stream)
        try:
            yield from stream.run()
        finally:
            self._streams.discard(stream)

    def _pin(self, fingerprint: str) -> None:
        with self._pinning:
            if self._fingerprint is None:
                self._fingerprint = fingerprint
        if self._fingerprint != fingerprint:
            raise WireError(
                f"this answer has the fingerprint {fingerprint}, earlier ones {self._fingerprint}: "
                "the ensemble was changed meanwhile; make a new client"
            )

    def _known(self) -> Ensemble:
        if self._http.is_closed:
            raise SoftTargetsError("this client is closed; make a new one")
        with self._asking:
            if self._ensemble is None:
                try:
                    response = self._http.get(self._path)
                except httpx2.RequestError as exc:
                    raise self._unreachable(exc) from exc
                if response.status_code != OK:
                    raise refusal(response)
                self._ensemble = read_ensemble(response)
            return self._ensemble

    def _post(self, body: bytes) -> tuple[bytes, httpx2.RequestError | None]:
        """Send one request; the answer, and what broke it off if anything did."""
        # Log-probabilities hardly compress, so a proxy is not asked to try.
        headers = {"Content-Type": wire.ARROW, "Accept": wire.ARROW, "Accept-Encoding": "identity"}
        pieces: list[bytes] = []
        try:
            with self._http.stream(
                "POST", f"{self._path}/soft-targets", params=self._params, content=body, headers=headers
            ) as response:
                if response.status_code != OK:
                    response.read()
                    raise refusal(response)
                kind = response.headers.get("Content-Type", "")
                if kind.split(";")[0].strip().lower() != wire.ARROW:
                    raise WireError(f"{self.base_url} answered with {kind or 'no type'}, not {wire.ARROW}")
                try:
                    pieces.extend(response.iter_bytes())  # what came before a break stays in the list
                except httpx2.RequestError as exc:
                    return b"".join(pieces), exc
        except httpx2.RequestError as exc:
            raise self._unreachable(exc) from exc
        return b"".join(pieces), None

    def _unreachable(self, exc: httpx2.RequestError) -> ServerUnreachable:
        if isinstance(exc, httpx2.TimeoutException):
            return ServerUnreachable(
                f"{self.base_url} did not answer in time ({_said(exc)}); "
                "it may be overloaded: a larger timeout_s waits longer"
            )
        return ServerUnreachable(
            f"{self.base_url} cannot be reached ({_said(exc)}); "
            "check that the server runs there (GET /readyz answers) and that the address is right"
        )

    def _count(
        self,
        *,
        sources: Sequence[str] = (),
        requests: int = 0,
        sent_bytes: int = 0,
        received_bytes: int = 0,
        waited_s: float = 0.0,
    ) -> None:
        with self._counting:
            before = self._stats
            by_source = dict(before.rows_by_source)
            for source in sources:
                by_source[source] = by_source.get(source, 0) + 1
            # One whole snapshot replaces another, so that readers need no lock.
            self._stats = Stats(
                rows=before.rows + len(sources),
                rows_by_source=by_source,
                requests=before.requests + requests,
                sent_bytes=before.sent_bytes + sent_bytes,
                received_bytes=before.received_bytes + received_bytes,
                waited_s=before.waited_s + waited_s,
            )


def _said(exc: Exception) -> str:
    return str(exc) or type(exc).__name__
