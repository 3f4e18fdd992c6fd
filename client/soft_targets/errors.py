"""Every error a trainer can meet.

SoftTargetsError
├── InputError            what was passed cannot be sent: its name, dtype or shape does not fit
│   ├── TooManyRows       more rows in one body than its reader allows
│   └── TooManyBytes      rows that take more bytes, once read, than their reader allows
├── ServerUnreachable     no answer came: refused, reset or timed out
├── RequestRefused        the server answered with an error: status, code and what to do
├── WireError             the answer is not what the wire format says
│   ├── IncompleteStream  rows are missing, doubled or foreign, or the stream was cut
│   └── OtherFingerprint  targets of another recipe, or of teachers that were changed
└── FailedRows            the answer came whole, but some of its rows carry an error
"""

from collections.abc import Mapping, Sequence
from typing import Any

RowId = int | str


class SoftTargetsError(Exception):
    """The root of everything this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # A process that loads data sends its errors to another, whatever their constructors take.
        return _restored, (type(self), self.args), self.__dict__


def _restored(kind: type[SoftTargetsError], arguments: tuple[Any, ...]) -> SoftTargetsError:
    error = kind.__new__(kind)
    error.args = arguments
    return error


class InputError(SoftTargetsError):
    """Raised before anything is sent or computed when rows do not fit the ensemble's inputs."""


class TooManyRows(InputError):
    """Raised when a request's body holds more rows than its reader allows."""


class TooManyBytes(InputError):
    """Raised when the rows in a request's body take more bytes, once decompressed, than its reader allows."""


class ServerUnreachable(SoftTargetsError):
    """Raised when no answer came: the connection was refused or reset, or the time ran out."""


class RequestRefused(SoftTargetsError):
    """Raised when the server answered with an error instead of targets.

    Attributes:
        status: the HTTP status.
        code: the server's code, for instance ``bad_input`` or ``unknown_recipe``.
        retry_after_s: seconds after which it wants to be asked again, where it says so.
    """

    def __init__(self, message: str, *, status: int, code: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"{message} [{status} {code}]")
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class WireError(SoftTargetsError):
    """Raised when bytes do not follow the wire format."""


class IncompleteStream(WireError):
    """Raised when an answer was cut, or its rows are not exactly the rows asked for.

    Attributes:
        row_ids: the rows that are missing, doubled or foreign, where they are known.
    """

    def __init__(self, message: str, *, row_ids: Sequence[RowId] = ()) -> None:
        super().__init__(message)
        self.row_ids = tuple(row_ids)


class OtherFingerprint(WireError):
    """Raised when targets are not of the fingerprint that all before had: they must not be mixed."""


class FailedRows(SoftTargetsError):
    """Raised when the server answered some rows with an error.

    Attributes:
        errors: row id to (code, message).
    """

    def __init__(self, errors: Mapping[RowId, tuple[str, str]]) -> None:
        said = [f"row {row}: {code}: {text}" for row, (code, text) in errors.items()]
        more = f" (and {len(said[3:])} more)" if said[3:] else ""
        super().__init__(f"{len(said)} row(s) have no soft target: {'; '.join(said[:3])}{more}")
        self.errors = dict(errors)
