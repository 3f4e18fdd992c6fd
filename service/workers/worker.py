"""A worker: a process that answers, and changes what it serves when its parent says so."""

import argparse
import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from service import telemetry
from service.api.app import create_app
from service.api.banner import served
from service.api.draining import Server
from service.api.serving import config_of, port_of
from service.auth import open_access
from service.config import RecipeSection, load, read_recipe, text_of
from service.engine.changes import reload
from service.engine.engine import Engine
from service.errors import BadConfiguration, ConfigError, NotReady, ServiceError, TeacherUnreachable
from service.plans.sizing import processors
from service.telemetry.figures import Family, taken
from service.workers.channel import Channel, Message
from service.workers.measure import best_count

# How long the parent may take to say the figures of all workers.
GATHER_S = 5.0

log = telemetry.logger("workers")


class Shared:
    """Changes of all workers: the parent puts them in one order, this one's own first.

    Args:
        channel: to the parent.
        path: of the configuration.
        engine: opened.
    """

    def __init__(self, channel: Channel, path: Path, engine: Engine) -> None:
        self._channel = channel
        self._path = path
        self._engine = engine
        self._numbers = itertools.count()
        self._asked: dict[int, asyncio.Future[bool]] = {}
        self._failures: dict[int, ServiceError] = {}
        self._gathers: dict[int, asyncio.Future[list[Family]]] = {}
        self._state = ""

    def degraded(self) -> list[str]:
        """Whether all workers are there."""
        return [self._state] if self._state else []

    async def put(self, ensemble: str, recipe: str, section: RecipeSection) -> bool:
        """As of ``Changes``."""
        document = {
            **section.model_dump(mode="json", exclude={"operator"}),
            "operator": section.operator.as_dict(),
        }
        return await self._ask({"kind": "put", "ensemble": ensemble, "recipe": recipe, "section": document})

    async def reload(self, ensemble: str) -> None:
        """As of ``Changes``."""
        try:
            text = await asyncio.to_thread(text_of, self._path)
        except ConfigError as exc:
            raise BadConfiguration(f"{exc}; all is served as before") from None
        await self._ask({"kind": "reload", "ensembles": [ensemble], "text": text})

    async def unload(self, ensemble: str) -> None:
        """As of ``Changes``."""
        await self._ask({"kind": "unload", "ensemble": ensemble})

    async def figures(self) -> list[Family]:
        """The figures of all workers.

        Raises:
            NotReady: the parent does not say them.
        """
        number = next(self._numbers)
        answer = self._gathers[number] = asyncio.get_running_loop().create_future()
        self._channel.send("gather", number=number)
        try:
            return await asyncio.wait_for(answer, GATHER_S)
        except TimeoutError:
            raise NotReady("the figures of the other processes are not known; ask again") from None
        finally:
            del self._gathers[number]

    async def tell_at_the_end(self) -> None:
        """Tell the parent, when the application stops, how much was counted up to then."""
        try:
            await asyncio.Event().wait()
        finally:
            self._channel.send("figures", figures=taken(self._engine.metrics))

    async def _ask(self, change: Message) -> bool:
        number = next(self._numbers)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send("ask", number=number, change=change)
        try:
            return bool(await answer)
        finally:
            del self._asked[number]
            self._failures.pop(number, None)

    async def listen(self, server: uvicorn.Server) -> None:
        """Do what the parent says, and stop when it is gone."""
        changing: set[asyncio.Task[None]] = set()
        while message := await self._channel.receive():
            match message["say"]:
                case "change":
                    # Not here: a change may take seconds, and answers have to be heard meanwhile.
                    task = asyncio.create_task(self._change(message))
                    changing.add(task)
                    task.add_done_callback(changing.discard)
                case "answer":
                    self._answered(message)
                case "figures":
                    figures = taken(self._engine.metrics)
                    self._channel.send("done", number=message["number"], error=None, figures=figures)
                case "gathered":
                    gathered = self._gathers.get(message["number"])
                    if gathered is not None and not gathered.done():
                        gathered.set_result([Family(*family) for family in message["figures"]])
                case "state":
                    missing = message["of"] - message["ready"]
                    self._state = f"{missing} of {message['of']} workers are being started" if missing else ""
        server.should_exit = True

    async def _change(self, message: Message) -> None:
        try:
            new = await apply(self._engine, self._path, message["change"])
        except ServiceError as exc:
            if message["asked"] in self._asked:
                self._failures[message["asked"]] = exc
            self._channel.send("done", number=message["number"], error=str(exc))
        except Exception as exc:
            log.exception("change failed")
            self._channel.send("done", number=message["number"], error=repr(exc))
        else:
            self._channel.send("done", number=message["number"], error=None, new=new)

    def _answered(self, message: Message) -> None:
        answer = self._asked.get(message["number"])
        if answer is None or answer.done():
            return
        if message["error"] is None:
            answer.set_result(message["new"])
        else:
            failure = self._failures.get(message["number"])
            answer.set_exception(failure or ServiceError(message["error"]))


async def apply(engine: Engine, path: Path, change: Message) -> bool:
    """Make a change in this process; whether it was news.

    Raises:
        ServiceError: it cannot be made.
    """
    match change["kind"]:
        case "put":
            section = read_recipe(change["recipe"], change["section"])
            return await engine.put_recipe(change["ensemble"], change["recipe"], section)
        case "reload":
            await reload(engine, lambda: load(path, change["text"]), change["ensembles"])
        case "load":
            await engine.reload(load(path, change["text"]), change["ensembles"])
        case "unload":
            await engine.unload(change["ensemble"])
    return True


async def answer(path: Path, end: socket.socket, listeners: Sequence[socket.socket]) -> int:
    """Answer until the parent says otherwise.

    Args:
        path: of the configuration.
        end: of the pair of sockets whose other end the parent has.
        listeners: to accept on; a second one for the metrics.

    Returns:
        The exit code.
    """
    channel = await Channel.over(end)
    start = await channel.receive()
    if start is None:
        return 0
    try:
        settings = load(path, start["text"])
        access = open_access(settings.auth)
        engine = await asyncio.to_thread(Engine.open, settings, telemetry.open_spans())
        if start["measure"]:
            best = await asyncio.to_thread(best_count, engine, processors())
            channel.send("measured", **best._asdict())
            await engine.close()
            return 0
        channel.send("loaded")
        while (message := await channel.receive()) and message["say"] != "go":
            pass  # how many workers there are is told to everyone
        for change in message["changes"] if message else ():
            await apply(engine, path, change)
    except ServiceError as exc:
        sys.stderr.write(f"soft-targets: {exc}\n")
        return 3 if isinstance(exc, TeacherUnreachable) else 2
    changes = Shared(channel, path, engine)
    app = create_app(
        engine,
        settings,
        access,
        changes,
        changes.tell_at_the_end,
        gather=changes.figures,
        metrics_port=port_of(listeners),
    )
    server = Server(config_of(app, settings, drain=app.state.drain), engine)
    listening = asyncio.create_task(changes.listen(server))
    channel.send("ready", served=served(engine))
    await server.serve(sockets=[*listeners])
    listening.cancel()
    return 0


def main() -> None:
    """What ``python -m service.workers`` does."""
    # Until uvicorn listens for them; after it has drained, it raises them again.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("end", type=int)
    parser.add_argument("listeners", type=int, nargs="+")
    asked = parser.parse_args()
    telemetry.configure()
    listeners = [socket.socket(fileno=one) for one in asked.listeners]
    sys.exit(asyncio.run(answer(asked.path, socket.socket(fileno=asked.end), listeners)))
