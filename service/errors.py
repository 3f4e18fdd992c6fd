"""Every error the service raises on purpose; the HTTP edge maps each to a status, once.

ServiceError
├── ConfigError              the configuration cannot be used
│   ├── TeacherError         a teacher's model is not what the configuration says of it
│   │   └── TeacherUnreachable  a teacher elsewhere does not answer at start
│   ├── DeviceError          a device that was named cannot be had
│   └── PortTaken            somebody listens on the port already
├── RequestError             the request cannot be answered as it stands
│   ├── BadInput             rows, body or row ids do not fit
│   ├── EmptyBatch           a request without rows
│   ├── BadQuery             a query parameter is unknown or its value impossible
│   ├── BadWeights           the weights asked for are not weights of these teachers
│   ├── UnknownEnsemble      no ensemble of that name
│   ├── UnknownRecipe        no recipe of that name in the ensemble
│   ├── Unauthenticated      the server has keys, and the request came without one of them
│   ├── Forbidden            the key lacks the scope, or what is asked for needs keys and there are none
│   ├── OperatorRefused      an operator does not reach its profile
│   ├── BadConfiguration     the configuration that is to be loaded cannot be used
│   ├── RecipeExists         a recipe of that name has other content
│   ├── NotFound             no such route
│   ├── MethodNotAllowed     the route exists, the method does not
│   ├── NotAcceptable        none of the media types the client accepts can be served
│   ├── TooLarge             more bytes or rows than the limits allow
│   ├── HeadTooLarge         ... in its first line and headers
│   ├── UnsupportedMediaType the body is of a type nobody here reads
│   ├── Unsupported          a part of a protocol that is not built here
│   ├── TooSlow              a request did not arrive in its time
│   └── QuotaExceeded        the key asks for more rows than its quota has left
├── RowsFailed               rows are answered together or not at all, and some have no target
├── TeacherFailure           a teacher raised, or answered with the wrong shape, on a batch
│   ├── TeacherOverrun       a teacher did not answer in its time
│   └── TeacherSilent        a teacher elsewhere could not be reached, or was too busy
├── GraphFailure             a graph of several teachers raised or overran, and nobody knows which of them
├── CannotRecord             no graph can be made of teachers or an operator; they are run apart
├── CacheUnavailable         the cache does not answer; rows are computed then, and no student is told
│   ├── CacheTimeout         ... not in its time
│   └── CacheRefused         it answers, but keeps nothing new
├── Overrun                  a call did not end in its time and was stopped
├── NotReady                 too many teachers fail, or a batch does not come back
│   └── Draining             the server stops: it finishes what it has taken in, and takes in nothing more
└── QueueFull                as much is being answered as may be at a time
"""

from typing import Any, ClassVar


class ServiceError(Exception):
    """The root; its message says what was wrong, where, and what to do."""

    code: ClassVar[str] = "internal"


class ConfigError(ServiceError):
    """Raised at start when the configuration cannot be used."""


class TeacherError(ConfigError):
    """Raised at start when a teacher's model is not what the configuration says of it."""


class TeacherUnreachable(TeacherError):
    """Raised at start when a teacher elsewhere does not answer; what is configured may be right."""


class DeviceError(ConfigError):
    """Raised at start when a device that was named cannot be had; nothing silently runs elsewhere."""


class PortTaken(ConfigError):
    """Raised at start when somebody listens on the port already: maybe a server of the same configuration."""


class RequestError(ServiceError):
    """Raised when a request cannot be answered as it stands."""

    code = "bad_input"


class BadInput(RequestError):
    """Raised when the rows, the body or the row ids do not fit the ensemble."""


class EmptyBatch(RequestError):
    """Raised when a request holds no rows."""

    code = "empty_batch"


class BadQuery(RequestError):
    """Raised when a query parameter is unknown, stands twice, or has an impossible value."""

    code = "bad_query"


class BadWeights(RequestError):
    """Raised when the weights asked for are not weights of the ensemble's teachers."""

    code = "bad_weights"


class UnknownEnsemble(RequestError):
    """Raised when no ensemble has the name asked for."""

    code = "unknown_ensemble"


class UnknownRecipe(RequestError):
    """Raised when the ensemble has no recipe of the name asked for."""

    code = "unknown_recipe"


class Unauthenticated(RequestError):
    """Raised when the server has keys, and the request came without exactly one of them."""

    code = "unauthenticated"


class Forbidden(RequestError):
    """Raised when the key lacks the scope, or the server has no keys for what is asked."""

    code = "forbidden"


class OperatorRefused(RequestError):
    """Raised when an operator does not reach its profile; carries the certificate with its witnesses.

    Attributes:
        certificate: as JSON.
    """

    code = "operator_refused"

    def __init__(self, message: str, *, certificate: dict[str, Any]) -> None:
        super().__init__(message)
        self.certificate = certificate


class BadConfiguration(RequestError):
    """Raised when a configuration that is to be loaded anew cannot be used; all is served as before."""

    code = "bad_configuration"


class RecipeExists(RequestError):
    """Raised when a recipe of that name exists with other content."""

    code = "recipe_exists"


class NotFound(RequestError):
    """Raised when no route has the path asked for."""

    code = "not_found"


class MethodNotAllowed(RequestError):
    """Raised when the path exists, but not for this method."""

    code = "method_not_allowed"


class NotAcceptable(RequestError):
    """Raised when none of the media types that the client accepts can be served."""

    code = "not_acceptable"


class TooLarge(RequestError):
    """Raised when a request has more bytes or rows than the limits allow."""

    code = "too_large"


class HeadTooLarge(RequestError):
    """Raised when a request's first line and headers are longer than the limits allow."""

    code = "too_large"


class UnsupportedMediaType(RequestError):
    """Raised when the body is of a media type that nobody here reads."""

    code = "unsupported_media_type"


class Unsupported(RequestError):
    """Raised when a request asks for a part of a protocol that is not built here."""

    code = "unsupported"


class TooSlow(RequestError):
    """Raised when a request did not arrive whole in its time."""

    code = "too_slow"


class QuotaExceeded(RequestError):
    """Raised when a key asks for more rows than its quota has left.

    Attributes:
        retry_after_s: seconds after which it has room for them, if nothing else is asked meanwhile.
    """

    code = "quota_exceeded"

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RowsFailed(ServiceError):
    """Raised when rows are answered together or not at all, and some of them have no target.

    Attributes:
        row_code: the row's own code that says best whether asking again helps.
    """

    def __init__(self, message: str, *, row_code: str) -> None:
        super().__init__(message)
        self.row_code = row_code


class TeacherFailure(ServiceError):
    """Raised while a batch runs when a teacher raised or answered with the wrong shape.

    Attributes:
        teacher: its name.
    """

    code = "teacher_failed"

    def __init__(self, message: str, *, teacher: str) -> None:
        super().__init__(message)
        self.teacher = teacher


class TeacherOverrun(TeacherFailure):
    """Raised while a batch runs when a teacher did not answer in its time."""


class TeacherSilent(TeacherFailure):
    """Raised while a batch runs when a teacher elsewhere cannot be reached or is too busy; that may pass.

    Attributes:
        retry_after_s: when it asks to be asked again, if it says so.
    """

    def __init__(self, message: str, *, teacher: str, retry_after_s: float | None = None) -> None:
        super().__init__(message, teacher=teacher)
        self.retry_after_s = retry_after_s


class GraphFailure(ServiceError):
    """Raised while a batch runs when a graph of several teachers raised or overran."""


class CannotRecord(ServiceError):
    """Raised when no graph can be made; the message is the reason."""


class Overrun(ServiceError):
    """Raised when a call did not end in its time and was stopped."""


class CacheUnavailable(ServiceError):
    """Raised when a cache cannot answer: that is no miss, and never reaches a student."""


class CacheTimeout(CacheUnavailable):
    """Raised when a cache did not answer in its time."""


class CacheRefused(CacheUnavailable):
    """Raised when a cache answers, but keeps nothing new: it is full, or a replica."""


class NotReady(ServiceError):
    """Raised when a server that should be asked for readiness has to say no."""

    code = "not_ready"


class Draining(NotReady):
    """Raised at the door of a server that stops, and when it is asked whether it is ready."""

    code = "draining"


class QueueFull(ServiceError):
    """Raised at the door when as much is being answered as may be at a time; nothing of it was read."""

    code = "queue_full"
