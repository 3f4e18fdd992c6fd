"""The address of a teacher that lives elsewhere: ``kserve+http://host:port/model``."""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urlsplit

from service.config.values import refuse

SCHEME = "kserve+"
SPELLED = "kserve+http://host:8000/model or kserve+https://host/model/versions/3"


class RemoteModel(NamedTuple):
    """A model behind the Open Inference Protocol.

    Attributes:
        server: scheme, host and port; nothing else of it is ever asked.
        name: of the model there.
        version: of the model; None leaves it to the server.
    """

    server: str
    name: str
    version: str | None = None

    def __str__(self) -> str:
        version = "" if self.version is None else f"/versions/{self.version}"
        return f"{SCHEME}{self.server}/{quote(self.name, safe='')}{version}"

    @property
    def path(self) -> str:
        """Where the server keeps it."""
        version = "" if self.version is None else f"/versions/{quote(self.version, safe='')}"
        return f"/v2/models/{quote(self.name, safe='')}{version}"


def read_remote(url: str) -> RemoteModel:
    """A model elsewhere from its address.

    Raises:
        PydanticCustomError: it is none; an address that may hold a password is not repeated.
    """
    try:
        parts = urlsplit(url.removeprefix(SCHEME))
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise refuse(f"this is no address of a teacher: {exc}; write {SPELLED}") from None
    if "@" in parts.netloc:
        raise refuse("an address is logged and shown: put the key into a file, and name it as key_file")
    if parts.scheme not in {"http", "https"} or not host or re.search(r"[\s\x00-\x1f]", url):
        raise refuse(f"{url!r} is no address of a teacher; write {SPELLED}")
    if parts.query or parts.fragment:
        raise refuse(f"{url!r}: what goes with every request is told as parameters; write {SPELLED}")
    segments = [unquote(one) for one in parts.path.removeprefix("/").split("/")]
    fits = len(segments) == 1 or (len(segments) == 3 and segments[1] == "versions")  # noqa: PLR2004
    if not fits or not all(segments) or {".", ".."} & set(segments):
        raise refuse(f"{url!r} names no model; write {SPELLED}, and the path /v2/models is put before it")
    shown = f"[{host}]" if ":" in host else host
    server = f"{parts.scheme}://{shown}" + ("" if port is None else f":{port}")
    return RemoteModel(server, segments[0], segments[2] if len(segments) > 1 else None)
