"""An ensemble while it is served: its batcher, and who still uses it when another takes its place."""

import asyncio
import contextlib
from types import TracebackType

from service.batching.batcher import Batcher
from service.engine.batches import Answer, Question
from service.engine.ensemble import Ensemble


class Hosted:
    """An ensemble and its batcher; used as a context by each request from its first look to its last byte.

    Attributes:
        ensemble: loaded.
        batcher: of its rows.
    """

    def __init__(self, ensemble: Ensemble, batcher: Batcher[Question, Answer]) -> None:
        self.ensemble = ensemble
        self.batcher = batcher
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    def __enter__(self) -> Ensemble:
        self._users += 1
        self._unused.clear()
        return self.ensemble

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        if not self._users:
            self._unused.set()

    async def retire(self, patience_s: float) -> None:
        """Wait for its users, that long at most; answer what is left as failed, and release everything."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._unused.wait(), patience_s)
        await self.batcher.close()
        self.ensemble.close()
