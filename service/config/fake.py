"""The fake teacher's address: ``fake://?classes=10&features=64``, for tests of load and faults."""

from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from service.config.values import refuse
from service.model import nearest


class FakeModel(NamedTuple):
    """What a fake teacher does.

    Attributes:
        classes: of its answer.
        features: float32 numbers a row, its input ``x``.
        seed: of its matrix.
        delay_ms: that a batch takes, however many rows are in it.
        nan_above: a row whose first number is above it is answered with NaN.
        raise_above: a batch with such a row raises.
        hang_above: a batch with such a row takes longer than any time limit.
    """

    classes: int = 10
    features: int = 64
    seed: int = 0
    delay_ms: float = 0.0
    nan_above: float = float("inf")
    raise_above: float = float("inf")
    hang_above: float = float("inf")

    def __str__(self) -> str:
        return "fake://?" + "&".join(f"{name}={value:g}" for name, value in self._asdict().items())


def read_fake(url: str) -> FakeModel:
    """A fake teacher's model from its address.

    Raises:
        PydanticCustomError: a part of it is unknown or no number.
    """
    parts = urlsplit(url)
    if parts.netloc or parts.path not in {"", "/"}:
        raise refuse(f"{url!r} is no fake teacher; write fake://?classes=10&features=64")
    found: dict[str, float] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in FakeModel._fields:
            raise refuse(f"{url!r}: unknown {name!r}{nearest(name, FakeModel._fields)}")
        try:
            found[name] = FakeModel.__annotations__[name](value)
        except ValueError:
            raise refuse(f"{url!r}: {name} is {value!r}, which is no number") from None
    model = FakeModel(**found)  # type: ignore[arg-type]
    if model.classes < 1 or model.features < 1 or not model.delay_ms >= 0:
        raise refuse(f"{url!r}: classes and features are 1 at least, delay_ms 0")
    return model
