"""How a server stops: not ready first, then it finishes, then it closes."""

import asyncio
import math
import os
import socket
from types import FrameType

import uvicorn

from service import telemetry
from service.engine.engine import Engine

# Of a process that was told twice: what it was answering is lost.
INTERRUPTED = 130
# What the last bytes of the replies may take on their way, beyond the time that is left.
LAST_S, MOST_S = 1.0, 5.0
# Between the last connection that is taken and the closing of those on which nothing is asked.
LINGER_S = 0.1

log = telemetry.logger("serving")


class Server(uvicorn.Server):
    """uvicorn's server, which on a signal goes on listening until what it has taken in is answered.

    From the signal on it is not ready, says so to whoever asks, and refuses what is new; so a balancer learns
    of it from an answer, and not from connections that fail. A second signal ends the process at once.

    Args:
        config: of the application and of how it is served.
        engine: which answers.
    """

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """What uvicorn calls on SIGTERM and SIGINT."""
        if self.should_exit:
            log.warning("ended at once by a second signal", requests=self._engine.intake.requests)
            os._exit(INTERRUPTED)
        self._engine.intake.close()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish, and then stop listening and close."""
        log.info("draining", requests=self._engine.intake.requests)
        left_s = await self._engine.drain()
        for server in self.servers:
            server.close()
        await asyncio.sleep(LINGER_S)  # whom it has just let in is heard, and told that it stops
        self.config.timeout_graceful_shutdown = math.ceil(min(MOST_S, max(LAST_S, left_s)))
        await super().shutdown(sockets)
