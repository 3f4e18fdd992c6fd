"""Media types: what a body is, and what the client accepts."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.errors import NotAcceptable, UnsupportedMediaType
from soft_targets.wire import ARROW, CODECS, Codec

JSON = "application/json"
READ = (JSON, ARROW)
NDJSON = "application/x-ndjson"
SERVED = (JSON, ARROW, NDJSON)
# A header's parts: what stands in quotes may hold what parts them.
LISTED = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')
PARAMETERS = re.compile(r'(?:[^;"]|"(?:\\.|[^"\\])*"?)+')


class Reply(NamedTuple):
    """What a reply is sent as.

    Attributes:
        media: its type.
        codec: by which the buffers of Arrow are compressed; None where they are not.
    """

    media: str
    codec: Codec | None = None

    @property
    def content_type(self) -> str:
        """As the reply's header says it."""
        return self.media if self.codec is None else f'{self.media}; codecs="{self.codec}"'


class Range(NamedTuple):
    """One entry of an Accept header."""

    media: str
    quality: float
    codecs: tuple[str, ...]


def of_body(content_type: str) -> str:
    """The body's media type.

    Raises:
        UnsupportedMediaType: it is none that is read.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media not in READ:
        raise UnsupportedMediaType(f"Content-Type is {content_type or 'missing'}; send {' or '.join(READ)}")
    return media


@functools.lru_cache(64)  # clients say the same again and again
def of_reply(accept: str, body: str) -> Reply:
    """What the reply is sent as: the best the client accepts, and the request's own where it does not say.

    Raises:
        NotAcceptable: nothing that can be served is accepted.
    """
    if not accept.strip():
        return Reply(body)
    offers: Sequence[str] = (body, *(media for media in SERVED if media != body))
    ranges = [_range(part) for part in LISTED.findall(accept)]
    media = max(offers, key=lambda media: (_quality(media, ranges), -offers.index(media)))
    if _quality(media, ranges) <= 0:
        raise NotAcceptable(f"Accept is {accept}; this route serves {', '.join(SERVED)}")
    return Reply(media, _codec(ranges) if media == ARROW else None)


def _range(part: str) -> Range:
    media, *parameters = PARAMETERS.findall(part) or [""]
    said = dict(_parameter(one) for one in reversed(parameters))
    codecs = tuple(codec.strip() for codec in said.get("codecs", "").split(","))
    return Range(media.strip().lower(), _number(said.get("q", "1")), codecs)


def _number(text: str) -> float:
    """A quality; 0 where it is none."""
    try:
        number = float(text)
    except ValueError:
        return 0.0
    return number if 0 <= number <= 1 else 0.0


def _parameter(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name.strip().lower(), value.strip().strip('"').lower()


def _quality(media: str, ranges: Sequence[Range]) -> float:
    """The quality the most specific matching range gives."""
    for pattern in (media, media.partition("/")[0] + "/*", "*/*"):
        found = [one.quality for one in ranges if one.media == pattern]
        if found:
            return max(found)
    return 0.0


def _codec(ranges: Sequence[Range]) -> Codec | None:
    """The first codec that is known, in the client's order."""
    known: Mapping[str, Codec] = {codec: codec for codec in CODECS}
    asked = sorted((one for one in ranges if one.media == ARROW and one.quality > 0), key=_falling)
    return next((known[codec] for one in asked for codec in one.codecs if codec in known), None)


def _falling(one: Range) -> float:
    return -one.quality
