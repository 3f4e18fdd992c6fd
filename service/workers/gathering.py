"""The figures of all workers: what those that ended have counted stays counted."""

from collections.abc import Sequence

from service.telemetry.figures import Family, lasting, merged


class Gathering:
    """What the workers have said last, and what those that are gone had counted."""

    def __init__(self) -> None:
        self._last: dict[int, Sequence[Family]] = {}
        self._gone: list[Family] = []

    def hear(self, place: int, families: Sequence[Sequence[object]]) -> None:
        """A worker says how much it has counted since it started."""
        self._last[place] = [Family(*family) for family in families]  # type: ignore[arg-type]

    def ended(self, place: int) -> None:
        """A worker is gone; another one in its place begins at nothing."""
        self._gone = merged([self._gone, lasting(self._last.pop(place, ()))])

    @property
    def total(self) -> list[Family]:
        """All of it."""
        return merged([*self._last.values(), self._gone])
