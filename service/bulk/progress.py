"""How far a command is: a bar on a terminal, else a line now and then."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.bulk.tally import Tally

TICK_S = 0.5
LINE_S = 10.0


class View(Protocol):
    """Where progress is shown."""

    def show(self, tally: Tally, status: str) -> None:
        """What is known by now.

        Args:
            tally: of the rows.
            status: what is being waited for, if anything is.
        """
        ...

    def close(self) -> None:
        """The last word."""
        ...


def told(tally: Tally, seconds: float) -> str:
    """The rate, and what became of the rows.

    Args:
        tally: of the rows.
        seconds: since they were begun.
    """
    rate = (tally.done - tally.before) / seconds if seconds > 0 else 0.0
    counts = [f"{tally.hits} hits", f"{tally.computed} computed", f"{tally.failed} failed"]
    if tally.before:
        counts.insert(0, f"{tally.before} done before")
    if tally.unkept:
        counts.append(f"{tally.unkept} not to be kept")
    return ", ".join([f"{rate:.0f} rows/s", *counts])


class Bar:
    """A bar that is drawn over itself.

    Args:
        what: is being done.
        console: to draw on.
        clock: seconds, monotonic.
    """

    def __init__(self, what: str, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._began = clock()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(what, told="")
        self._progress.start()

    def show(self, tally: Tally, status: str) -> None:
        """As of ``View``."""
        self._progress.update(
            self._task,
            total=tally.rows,
            completed=tally.done,
            told=told(tally, self._clock() - self._began),
            description=f"{self._what}: {status}" if status else self._what,
        )

    def close(self) -> None:
        """As of ``View``."""
        self._progress.stop()


class Lines:
    """A line every ten seconds, for logs.

    Args:
        what: is being done.
        stream: to write to.
        clock: seconds, monotonic.
    """

    def __init__(self, what: str, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._stream = stream
        self._clock = clock
        self._began = self._last = clock()

    def show(self, tally: Tally, status: str) -> None:
        """As of ``View``."""
        now = self._clock()
        if now - self._last < LINE_S:
            return
        self._last = now
        seconds, done = now - self._began, tally.done - tally.before
        left = f", {seconds * (tally.rows - tally.done) / done:.0f} s left" if done else ""
        waiting = f"; {status}" if status else ""
        self._stream.write(
            f"{self._what}: {tally.done}/{tally.rows} rows, {told(tally, seconds)}{left}{waiting}\n"
        )
        self._stream.flush()

    def close(self) -> None:
        """As of ``View``."""


def view(what: str, stream: TextIO) -> View:
    """A bar where the stream is a terminal, else lines."""
    return Bar(what, Console(file=stream)) if stream.isatty() else Lines(what, stream)


@asynccontextmanager
async def shown(on: View, tally: Tally, status: Callable[[], list[str]]) -> AsyncIterator[None]:
    """Show a tally twice a second while something is done, also while it waits."""

    async def tick() -> None:
        while True:
            on.show(tally, "; ".join(status()))
            await asyncio.sleep(TICK_S)

    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await ticking
        on.show(tally, "")
        on.close()
