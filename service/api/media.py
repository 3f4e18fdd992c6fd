"""Media types: what a body is, and what the client accepts."""

from collections.abc import Sequence

from service.errors import NotAcceptable, UnsupportedMediaType
from soft_targets.wire import ARROW

JSON = "application/json"
SERVED = (JSON, ARROW)


def of_body(content_type: str) -> str:
    """The body's media type.

    Raises:
        UnsupportedMediaType: it is neither JSON nor Arrow.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media not in SERVED:
        raise UnsupportedMediaType(f"Content-Type is {content_type or 'missing'}; send {JSON} or {ARROW}")
    return media


def of_reply(accept: str, body: str) -> str:
    """The reply's media type: the best the client accepts, and the request's own where it does not say.

    Raises:
        NotAcceptable: nothing that can be served is accepted.
    """
    if not accept.strip():
        return body
    offers: Sequence[str] = (body, *(media for media in SERVED if media != body))
    ranges = [_range(part) for part in accept.split(",")]
    ranked = max(offers, key=lambda media: (_quality(media, ranges), -offers.index(media)))
    if _quality(ranked, ranges) <= 0:
        raise NotAcceptable(f"Accept is {accept}; this route serves {JSON} and {ARROW}")
    return ranked


def _range(part: str) -> tuple[str, float]:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = 1.0
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                quality = float(parameter[2:])
            except ValueError:
                quality = 0.0
    return media, quality


def _quality(media: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality the most specific matching range gives."""
    for pattern in (media, media.partition("/")[0] + "/*", "*/*"):
        found = [quality for name, quality in ranges if name == pattern]
        if found:
            return max(found)
    return 0.0
