"""A bar that shows how a stream does."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from soft_targets.errors import InputError
from soft_targets.stats import Stats

__all__ = ["shown"]


class Shows(Protocol):
    """What is shown."""

    @property
    def stats(self) -> Stats:
        """What was done so far."""


@contextmanager
def shown(stream: Shows, *, wanted: bool) -> Iterator[Callable[[int], None]]:
    """A function to tell the rows of each batch; the bar is drawn on the standard error if it is a terminal.

    Raises:
        InputError: it is wanted, and tqdm is not installed.
    """
    if not wanted:
        yield lambda _: None
        return
    try:
        from tqdm.auto import tqdm  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        raise InputError("progress=True needs tqdm: pip install 'soft-targets-client[progress]'") from None
    with tqdm(disable=None, unit=" rows", desc="soft targets") as bar:

        def show(rows: int) -> None:
            bar.set_postfix_str(said(stream.stats), refresh=False)
            bar.update(rows)

        yield show


def said(stats: Stats) -> str:
    """Hits, stall and bytes in a few words."""
    shares = (("hits", stats.hit_rate), ("stall", stats.stall))
    words = [f"{name} {share:.0%}" for name, share in shares if not math.isnan(share)]
    return ", ".join(
        [*words, f"up {stats.sent_bytes / 1e6:.1f} MB, down {stats.received_bytes / 1e6:.1f} MB"]
    )
