"""The parent: it starts workers on one socket, puts changes in one order, and restarts who dies."""

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path

from service import telemetry
from service.config import Settings, load, text_of
from service.engine.watching import watch
from service.errors import ConfigError
from service.workers.channel import Channel, Message
from service.workers.gathering import Gathering

# A worker that has lived so long was no failure from the start.
SETTLED_S = 60.0
LONGEST_PAUSE_S = 30.0
# How long a worker may take to make a change, certificates included.
CHANGE_S = 600.0
# How long a worker may take to say its figures; one that is busy is counted as it was last.
FIGURES_S = 2.0
# What a worker that drains has beyond limits.drain_s.
GRACE_S = 5.0
STATE_DIR, WORKERS = "SOFT_TARGETS__SERVER__STATE_DIR", "SOFT_TARGETS__SERVER__WORKERS"

log = telemetry.logger("workers")


class Worker:
    """A process that answers, as its parent sees it.

    Args:
        process: that was started.
        channel: to it.
    """

    def __init__(self, process: asyncio.subprocess.Process, channel: Channel) -> None:
        self.channel = channel
        self.ready = asyncio.Event()
        self._process = process
        self._orders: dict[int, asyncio.Future[Message]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[None, None, None]) -> None:
        """Do something while it goes on being heard; given up when it ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def change(self, number: int, change: Message, *, asked: int) -> Message:
        """Have it make a change.

        Args:
            number: of this order.
            change: to be made.
            asked: the number under which it asked for it itself, else -1.

        Returns:
            ``error``, a text or None, and ``new``.
        """
        return await self._order("change", number, CHANGE_S, change=change, asked=asked)

    async def figures(self, number: int) -> Message:
        """Ask for its figures.

        Args:
            number: of this order.

        Returns:
            ``error``, a text or None, and ``figures``.
        """
        return await self._order("figures", number, FIGURES_S)

    async def _order(self, say: str, number: int, patience_s: float, **what: object) -> Message:
        answer = self._orders[number] = asyncio.get_running_loop().create_future()
        self.channel.send(say, number=number, **what)
        try:
            return await asyncio.wait_for(answer, patience_s)
        except TimeoutError:
            return {"error": f"no answer within {patience_s:g} s"}
        finally:
            del self._orders[number]

    def done(self, message: Message) -> None:
        """Hear that an order was carried out, or not."""
        answer = self._orders.get(message["number"])
        if answer is not None and not answer.done():
            answer.set_result(message)

    def end(self, how: signal.Signals) -> None:
        """Send it a signal; if it has ended that does no harm."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(how)

    def close(self) -> None:
        """Nobody hears it any more: nothing of it is waited for."""
        self.ready.clear()
        self.channel.close()
        for task in self._tasks:
            task.cancel()
        for answer in self._orders.values():
            if not answer.done():
                answer.set_result({"error": "the worker ended"})


class Parent:
    """Looks after workers until it is told to stop.

    Args:
        path: of the configuration, absolute.
        settings: what it says.
        listeners: bound; every worker accepts on them.
    """

    def __init__(self, path: Path, settings: Settings, listeners: Sequence[socket.socket]) -> None:
        self._path = path
        self._settings = settings
        self._listeners = listeners
        self._text = text_of(path)
        self._log: list[Message] = []  # every change, in order; a worker that starts later makes them too
        self._workers: dict[int, Worker] = {}
        self._gathering = Gathering()
        self._ordered = asyncio.Lock()
        self._numbers = itertools.count()
        self._count, self._gpus = 0, False
        self._moved = asyncio.Event()
        self._stopping = asyncio.Event()
        self._code = 0

    async def run(self, started: Callable[[], None], *, watched: bool) -> int:
        """Start the workers, and look after them until SIGTERM or SIGINT.

        Args:
            started: is called when all of them answer.
            watched: whether the configuration's changes are followed.

        Returns:
            The exit code.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop, 0)
        loop.add_signal_handler(signal.SIGINT, self._stop, 130)
        with tempfile.TemporaryDirectory(prefix="soft-targets-") as kept:
            environment = dict(os.environ)
            if self._settings.server.state_dir is None:
                environment[STATE_DIR] = kept  # what the first worker certifies, the others find there
            count = self._count = await self._counted(environment)
            tasks = [asyncio.create_task(self._keep_alive(0, environment))]
            await self._until_ready(1)
            tasks += [asyncio.create_task(self._keep_alive(place, environment)) for place in range(1, count)]
            await self._until_ready(count)
            if not self._stopping.is_set():
                started()
            watching = asyncio.create_task(self._watch()) if watched else None
            await self._stopping.wait()
            if watching:
                watching.cancel()
            await self._end(tasks)
        return self._code

    async def _counted(self, environment: dict[str, str]) -> int:
        """How many workers there are to be; found out by one that only measures, if nobody has said."""
        if self._settings.server.workers != "auto":
            return self._settings.server.workers
        code, _ = await self._live(0, environment, measure=True)
        if code:
            self._stop(code)
        count = max(1, self._count)
        environment[WORKERS] = str(count)
        log.info("sized by measurement", workers=count)
        return count

    def _stop(self, code: int) -> None:
        self._code = self._code or code
        self._stopping.set()
        self._moved.set()

    async def _until_ready(self, count: int) -> None:
        while not self._stopping.is_set() and self._ready < count:
            self._moved.clear()
            await self._moved.wait()

    @property
    def _ready(self) -> int:
        return sum(worker.ready.is_set() for worker in self._workers.values())

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for worker in self._workers.values():
            worker.end(signal.SIGTERM)
        patience = self._settings.limits.drain_s + GRACE_S
        _, left = await asyncio.wait(tasks, timeout=patience)
        for worker in self._workers.values():
            worker.end(signal.SIGKILL)
        if left:
            await asyncio.wait(left)

    async def _keep_alive(self, place: int, environment: Mapping[str, str]) -> None:
        """Have a worker in a place, again and again."""
        pause, loop, ever = 1.0, asyncio.get_running_loop(), False
        while not self._stopping.is_set():
            began = loop.time()
            code, ready = await self._live(place, environment)
            ever = ever or ready
            if self._stopping.is_set():
                return
            if not ever:
                self._stop(code or 3)  # it has said why
                return
            log.error("a worker ended and is started again", place=place, code=code)
            pause = 1.0 if loop.time() - began > SETTLED_S else min(2 * pause, LONGEST_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _live(
        self, place: int, environment: Mapping[str, str], *, measure: bool = False
    ) -> tuple[int, bool]:
        """A worker's life; its exit code, and whether it was ever ready."""
        mine, theirs = socket.socketpair()
        own = {"CUDA_VISIBLE_DEVICES": str(place)} if self._gpus else {}
        fds = (theirs.fileno(), *(listener.fileno() for listener in self._listeners))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service.workers", str(self._path), *map(str, fds),
            pass_fds=fds, env={**environment, **own}, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        worker = self._workers[place] = Worker(process, await Channel.over(mine))
        worker.channel.send("start", text=self._text, measure=measure)
        try:
            while message := await worker.channel.receive():
                self._hear(place, worker, message)
            return await process.wait(), worker.ready.is_set()
        finally:
            del self._workers[place]
            self._gathering.ended(place)
            worker.close()
            self._tell()

    def _hear(self, place: int, worker: Worker, message: Message) -> None:
        match message["say"]:
            case "measured":
                self._count, self._gpus = message["workers"], message["gpus"]
            case "loaded":
                worker.begin(self._catch_up(worker))
            case "ready":
                worker.ready.set()
                self._tell()
            case "ask":
                worker.begin(self._answer(message["change"], worker, message["number"]))
            case "done":
                worker.done(message)
            case "gather":
                worker.begin(self._gather(worker, message["number"]))
            case "figures":
                self._gathering.hear(place, message["figures"])

    def _tell(self) -> None:
        """Tell every worker how many there are."""
        self._moved.set()
        for worker in self._workers.values():
            worker.channel.send("state", ready=self._ready, of=self._count)

    async def _catch_up(self, worker: Worker) -> None:
        """Let a worker that is loaded make all changes up to now, and answer; none comes between."""
        async with self._ordered:
            worker.channel.send("go", changes=self._log)
            await worker.ready.wait()

    async def _gather(self, asking: Worker, asked: int) -> None:
        """Tell a worker the figures of all."""
        ready = {place: worker for place, worker in self._workers.items() if worker.ready.is_set()}
        said = await asyncio.gather(*(worker.figures(next(self._numbers)) for worker in ready.values()))
        for place, worker, message in zip(ready, ready.values(), said, strict=True):
            if message["error"] is None and self._workers.get(place) is worker:
                self._gathering.hear(place, message["figures"])
        asking.channel.send("gathered", number=asked, figures=self._gathering.total)

    async def _answer(self, change: Message, asking: Worker, asked: int) -> None:
        done = await self._order(change, asking, asked)
        asking.channel.send("answer", number=asked, error=done["error"], new=done.get("new"))

    async def _order(self, change: Message, first: Worker, asked: int = -1) -> Message:
        """Have a change made by one worker, and if it can be, by all others; what the first one said."""
        async with self._ordered:
            done = await first.change(next(self._numbers), change, asked=asked)
            if done["error"] is None and done["new"]:
                self._log.append(change)
                others = [one for one in self._workers.values() if one is not first and one.ready.is_set()]
                await asyncio.gather(*(self._follow(one, change) for one in others))
        return done

    async def _follow(self, worker: Worker, change: Message) -> None:
        done = await worker.change(next(self._numbers), change, asked=-1)
        if done["error"] is not None:
            log.error("a worker did not follow a change and is started again", error=done["error"])
            worker.end(signal.SIGTERM)

    async def _watch(self) -> None:
        text = self._text

        def source() -> Settings:
            nonlocal text
            text = text_of(self._path)
            return load(self._path, text)

        async def reload(_: Settings, names: set[str]) -> None:
            await self._until_ready(1)
            ready = [worker for worker in self._workers.values() if worker.ready.is_set()]
            if not names or not ready:  # none while it stops
                return
            done = await self._order({"kind": "load", "ensembles": sorted(names), "text": text}, ready[0])
            if done["error"] is not None:
                raise ConfigError(done["error"])

        await watch(self._path, source, self._settings, reload)
