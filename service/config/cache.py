"""The section ``cache``: where answers are kept, and what its URL says."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Literal, NamedTuple, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import ByteSize, Field, TypeAdapter, ValidationError, model_validator

from service.config.values import FilePath, Number, Section, Text, Whole, refuse

# What each kind of URL looks like, as whoever wrote another one is told.
SPELLED = {
    "memory": "memory://?max_bytes=512MiB",
    "lmdb": "lmdb:///var/cache/soft-targets?max_bytes=8GiB",
    "redis": "redis://HOST:6379/0",
    "rediss": "rediss://HOST:6379/0",
    "unix": "unix:///run/redis/redis.sock?db=0",
}
REMOTE = frozenset({"redis", "rediss", "unix"})
MIB = 1 << 20
# LMDB cannot work in less: a transaction copies the pages that it changes.
LEAST_LMDB_BYTES = MIB
PASSWORD = re.compile(r"://[^/?#]*:[^@]*@|[?&]password=")
DATABASE = re.compile(r"\d{1,6}")
LONGEST_TTL_S = 1e9


class Address(NamedTuple):
    """What a cache's URL says."""

    scheme: str
    max_bytes: int  # of memory and LMDB
    path: Path  # of LMDB's folder, or Redis's socket
    host: str
    port: int
    user: str | None
    database: int


class Breaker(Section):
    """After how many failures in a row the cache is left alone, and how often it is tried then."""

    failures: Annotated[Whole, Field(ge=1)] = 3
    retry_s: Annotated[Number, Field(gt=0, le=3600)] = 5.0


class Cache(Section):
    """Where answers are kept: in this process, in a file, or in Redis."""

    later: ClassVar = frozenset({"lease"})
    url: Text = SPELLED["memory"]
    password_file: FilePath | None = None
    l1_bytes: Annotated[ByteSize, Field(ge=0)] = ByteSize(64 * MIB)
    ttl_s: Annotated[Number, Field(gt=0, le=LONGEST_TTL_S)] = 604_800.0
    call_timeout_ms: Annotated[Number, Field(gt=0, le=60_000)] = 50.0
    breaker: Breaker = Breaker()
    opinions: Literal["off", "float32", "float16"] = "off"
    opinions_max_classes: Annotated[Whole, Field(gt=0)] = 4096

    def kept(self, classes: int) -> Literal["float32", "float16"] | None:
        """In which precision the opinions of an ensemble of so many classes are kept."""
        return None if self.opinions == "off" or classes > self.opinions_max_classes else self.opinions

    @property
    def address(self) -> Address:
        """What the URL says."""
        return read_url(self.url)

    @property
    def memory_bytes(self) -> int:
        """The most that values take in this process."""
        return self.address.max_bytes if self.address.scheme == "memory" else self.l1_bytes

    @model_validator(mode="after")
    def _readable(self) -> Self:
        address = read_url(self.url)
        if self.password_file is not None and address.scheme not in REMOTE:
            raise refuse(f"password_file is for Redis; a cache at {address.scheme}:// has no password")
        if address.user is not None and self.password_file is None:
            raise refuse(f"the URL names the user {address.user!r}: name the password_file too")
        return self


def read_url(url: str) -> Address:
    """What a cache's URL says.

    Raises:
        PydanticCustomError: it is no such URL; a URL that may hold a password is not repeated.
    """
    if PASSWORD.search(url):
        raise refuse("a URL is logged and shown: put the password into a file, and name it as password_file")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 6379
    except ValueError as exc:
        raise refuse(f"{_shown(url)} is no cache URL: {exc}") from None
    scheme, path = parts.scheme, unquote(parts.path)
    user = None if parts.username is None else unquote(parts.username)
    query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if scheme not in SPELLED:
        raise refuse(f"{_shown(url)} is no cache URL; write one of {', '.join(SPELLED.values())}")
    if scheme in {"redis", "rediss"}:
        database = path.removeprefix("/") or "0"
        fits = host and not query
    elif scheme == "unix":
        database = query.pop("db", "0")
        fits = not host and path.startswith("/") and not query
    else:
        database = "0"
        fits = (
            not parts.netloc and path.startswith("/") == (scheme == "lmdb") and query.keys() <= {"max_bytes"}
        )
    if not fits or not DATABASE.fullmatch(database) or parts.fragment:
        raise refuse(f"{_shown(url)} is no cache URL; write {SPELLED[scheme]}")
    return Address(
        scheme,
        max_bytes=0 if scheme in REMOTE else _size(url, scheme, query),
        path=Path(path),
        host=host,
        port=port,
        user=user,
        database=int(database),
    )


def _shown(url: str) -> str:
    """A URL that is none, as it is repeated: what stands before an @ may be a password."""
    return "what stands there" if "@" in url else repr(url)


def _size(url: str, scheme: str, query: Mapping[str, str]) -> int:
    text = query.get("max_bytes", SPELLED[scheme].rpartition("=")[2])
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    least = LEAST_LMDB_BYTES if scheme == "lmdb" else 1
    if size < least:
        raise refuse(f"max_bytes in {url!r} is no size from {least} bytes; write for instance 512MiB")
    return size
