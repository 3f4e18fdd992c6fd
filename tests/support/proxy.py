"""A TCP proxy that treats what a server replies as bad networks do."""

import asyncio


class Proxy:
    """Between a client and a server on loopback, for one event loop.

    Attributes:
        delay_s: before anything is passed on.
        piece: bytes passed on at a time, every hundredth of a second.
        cut_after: bytes of replies after which connections are closed.
        held: nothing is passed on, and nothing is closed: the other side is gone without a word.
        garbage: what is passed on instead of replies.
    """

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.delay_s = 0.0
        self.piece = self.cut_after = self.garbage = None
        self.held = False
        self.connections = 0

    async def __aenter__(self):
        self._tasks = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        self._tasks.add(asyncio.current_task())
        self.connections += 1
        try:
            replies, commands = await asyncio.open_connection("127.0.0.1", self.upstream)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass(reader, commands))
                    both.create_task(self._reply(replies, writer))
            finally:
                commands.close()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # one of the two is gone: so is the other; or all is over
        finally:
            writer.close()

    async def _pass(self, reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        raise ConnectionError

    async def _reply(self, reader, writer):
        passed = 0
        while data := await reader.read(65536):
            await asyncio.sleep(self.delay_s)
            if self.held:
                continue
            data = self.garbage or data
            if self.cut_after is not None:
                data = data[: self.cut_after - passed]
            step = self.piece or len(data)
            for start in range(0, len(data), step):
                writer.write(data[start : start + step])
                await writer.drain()
                if self.piece:
                    await asyncio.sleep(0.01)
            passed += len(data)
            if passed == self.cut_after:
                break
        raise ConnectionError
