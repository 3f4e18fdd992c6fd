"""A loader with the soft targets of its batches: asked for ahead of time, resumed where training stopped."""

from collections.abc import Callable, Generator, Iterable, Mapping
from copy import deepcopy
from typing import Any, Generic, TypeVar

from soft_targets.errors import InputError, OtherFingerprint
from soft_targets.exchange import Prepared
from soft_targets.prefetching import Prefetcher, Window
from soft_targets.progress import shown
from soft_targets.session import Closes
from soft_targets.stats import Stats, Tally
from soft_targets.targets import SoftTargets

__all__ = ["Distillation", "Window"]

FORMAT = 1  # of a state

Batch = TypeVar("Batch")


class Distillation(Generic[Batch]):
    """An iterable of (batch, targets), once through the loader each time; see ``Client.distill``.

    Its state counts the batches that were *consumed*, handed out that is, not those that were read ahead:
    where training goes on from a state, it goes on with the batch after the last that was handed out, however
    many had been asked for by then. A loader that has ``state_dict`` and ``load_state_dict`` itself
    (``StatefulDataLoader``, ``datasets.IterableDataset``) is put back by them; any other is gone through
    again from its beginning, without asking for what is skipped. It has to give the same batches in the same
    order as before: seed its shuffling by the epoch (``epoch`` says which one comes).

    Example:
        >>> stream = client.distill(loader, inputs=lambda batch: {"pixels": batch[0]})  # doctest: +SKIP
        >>> stream.load_state_dict(checkpoint["targets"])  # doctest: +SKIP
        >>> for batch, targets in stream:  # doctest: +SKIP
        ...     train(batch, targets)
        ...     checkpoint["targets"] = stream.state_dict()
    """

    def __init__(
        self,
        loader: Iterable[Batch],
        *,
        prepare: Callable[[Batch], Prepared],
        fetch: Callable[[Prepared], SoftTargets],
        target_bytes: Callable[[], int],
        window: Callable[[], Window],
        connections: int,
        tally: Tally,
        begin_epoch: Callable[[], None],
        streams: set[Closes],
        fingerprint: Callable[[], str | None],
        expect: Callable[[str], None],
        progress: bool,
    ) -> None:
        self._loader = loader
        self._prepare = prepare
        self._fetch = fetch
        self._target_bytes = target_bytes
        self._window = window
        self._connections = connections
        self._tally = tally
        self._begin_epoch = begin_epoch
        self._streams = streams
        self._fingerprint = fingerprint
        self._expect = expect
        self._progress = progress
        self._under_way: Prefetcher[Batch] | None = None
        self._epoch = self._batches = self._rows = 0
        self._resumed = False
        self._loader_state: Any = None

    def __len__(self) -> int:
        """Batches of an epoch, if the loader says so."""
        return len(self._loader)  # type: ignore[arg-type]

    @property
    def epoch(self) -> int:
        """The number of epochs that were gone through to their end."""
        return self._epoch

    @property
    def stats(self) -> Stats:
        """What was done so far, all epochs together; may be read while it runs, from any thread."""
        return self._tally.stats

    def __iter__(self) -> Generator[tuple[Batch, SoftTargets], None, None]:
        """Go through the rest of the epoch that a state was loaded of, or else through a new one.

        Raises:
            SoftTargetsError: the client was closed meanwhile, or what a request raised.
        """
        self.close()
        resumed, self._resumed = self._resumed, False
        if not resumed:
            self._batches, self._rows, self._loader_state = 0, 0, None
        self._begin_epoch()
        self._under_way = stream = Prefetcher(
            self._loader,
            skip=self._batches if self._loader_state is None else 0,
            prepare=self._prepare,
            fetch=self._fetch,
            target_bytes=self._target_bytes,
            window=self._window(),
            connections=self._connections,
            tally=self._tally,
        )
        self._streams.add(stream)
        try:
            with shown(self, wanted=self._progress) as show:
                for batch, targets, loader_state in stream.run():
                    self._batches += 1
                    self._rows += len(targets)
                    self._loader_state = loader_state
                    yield batch, targets
                    show(len(targets))
            # A loader's own state at the end of an epoch is where its next one begins.
            self._epoch, self._batches, self._rows = self._epoch + 1, 0, 0
            self._loader_state, self._resumed = stream.loader_state, True
        finally:
            stream.close()
            self._streams.discard(stream)

    def close(self) -> None:
        """Stop what is under way; the state stays what it is."""
        if self._under_way is not None:
            self._under_way.close()

    def state_dict(self) -> dict[str, Any]:
        """Where training stands: plain values, which torch, pickle and JSON can keep.

        With a loader that keeps a state itself, its state is among them, and is as plain as it is.
        """
        return {
            "format": FORMAT,
            "fingerprint": self._fingerprint(),
            "epoch": self._epoch,
            "batches": self._batches,
            "rows": self._rows,
            "loader": deepcopy(self._loader_state),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, other_fingerprint: bool = False) -> None:
        """Let the next iteration go on where the state was taken.

        Args:
            state: of ``state_dict``.
            other_fingerprint: whether targets may be of another fingerprint than before; else the server's
                answers must have the state's.

        Raises:
            InputError: it is no such state, or the loader cannot be put back to where it was.
            OtherFingerprint: this client's targets are of another fingerprint already.
        """
        try:
            form, fingerprint, loader_state = state["format"], state["fingerprint"], state["loader"]
            epoch, batches, rows = (int(state[name]) for name in ("epoch", "batches", "rows"))
        except (KeyError, TypeError, ValueError):
            raise InputError("this is not a state of distill: it needs what state_dict returns") from None
        if form != FORMAT or min(epoch, batches, rows) < 0:
            raise InputError(f"a state of format {form!r} cannot be read; this client reads {FORMAT}")
        if loader_state is not None and not _keeps_state(self._loader):
            raise InputError(
                "the state holds its loader's own state, but this loader has no load_state_dict; "
                "resume with the kind of loader that the state was taken with"
            )
        if fingerprint is not None and not other_fingerprint:
            self._expect(fingerprint)
            if self._fingerprint() != fingerprint:
                raise OtherFingerprint(
                    f"the state was taken with targets of the fingerprint {fingerprint}, this client's are "
                    f"of {self._fingerprint()}: teachers or recipe were changed. Use the recipe of before, "
                    "or go on with other_fingerprint=True"
                )
        self.close()
        self._epoch, self._batches, self._rows = epoch, batches, rows
        self._loader_state, self._resumed = loader_state, True
        if loader_state is not None:
            self._loader.load_state_dict(deepcopy(loader_state))  # type: ignore[attr-defined]


def _keeps_state(loader: object) -> bool:
    return hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
