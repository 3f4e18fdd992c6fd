"""Content codings of the protocol's clients, gzip and deflate, both ways."""

import gzip
import zlib
from collections.abc import Iterator

from service.errors import BadInput, TooLarge

_WINDOW = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
CODINGS = tuple(_WINDOW)
_LEVEL = 1  # probabilities hardly shrink, whatever the effort
_FEED_BYTES, _PIECE_BYTES = 1 << 20, 1 << 22


def coding_of(content_encoding: str) -> str | None:
    """What a body is compressed with; None where it is not.

    Raises:
        BadInput: with something else.
    """
    coding = content_encoding.strip().lower()
    if coding in {"", "identity"}:
        return None
    if coding not in CODINGS:
        raise BadInput(f"Content-Encoding {content_encoding!r} is not read; send {' or '.join(CODINGS)}")
    return coding


def inflate(body: bytes, coding: str, *, limit: int) -> Iterator[bytes]:
    """A body as it was before it was compressed, in pieces of at most 4 MiB.

    Raises:
        BadInput: it is not compressed so, is cut, or goes on behind its end.
        TooLarge: it inflates to more than ``limit`` bytes.
    """
    inflater, size = zlib.decompressobj(_WINDOW[coding]), 0
    for start in range(0, len(body), _FEED_BYTES):
        data, more = body[start : start + _FEED_BYTES], True
        while more:
            if inflater.eof:
                raise BadInput(f"the body goes on behind the end of its {coding}; send it as one stream")
            try:
                piece = inflater.decompress(data, _PIECE_BYTES)
            except zlib.error as exc:
                raise BadInput(f"the body is no {coding}: {exc}") from None
            size += len(piece)
            if size > limit:
                raise TooLarge(
                    f"the body inflates to more than {limit} bytes (limits.max_decompressed_bytes); "
                    "split the rows"
                )
            if piece:
                yield piece
            data = inflater.unused_data or inflater.unconsumed_tail
            # A piece that is full may leave something inside, although nothing is left to feed.
            more = bool(data) or (len(piece) == _PIECE_BYTES and not inflater.eof)
    if not inflater.eof:
        raise BadInput(f"the body ends before its {coding} does; send it whole")


def deflate(body: bytes, coding: str) -> bytes:
    """A reply, compressed."""
    return gzip.compress(body, _LEVEL, mtime=0) if coding == "gzip" else zlib.compress(body, _LEVEL)


def accepted(accept_encoding: str) -> str | None:
    """What a reply is to be compressed with; None where it is sent as it is.

    A client that wants it compressed names one coding. A list of several is what HTTP libraries send by
    themselves, whether or not somebody wants to wait for the compression of numbers that hardly shrink.
    """
    qualities = dict(_quality(part) for part in accept_encoding.split(",") if part.strip())
    identity = qualities.pop("identity", None)
    wanted = [coding for coding, quality in qualities.items() if quality > 0]
    if identity != 0 and len(wanted) != 1:
        return None
    known = [coding for coding in wanted if coding in CODINGS and qualities[coding] >= (identity or 0)]
    return max(known, key=lambda coding: qualities[coding], default=None)


def _quality(part: str) -> tuple[str, float]:
    coding, _, parameter = part.partition(";")
    name, _, value = parameter.partition("=")
    try:
        quality = float(value) if name.strip().lower() == "q" else 1.0
    except ValueError:
        quality = 0.0
    return coding.strip().lower(), quality
