"""``GET /``: the console's page and what it consists of. It holds no data: it asks the API, with a key."""

import hashlib
import mimetypes
from importlib import resources
from typing import NamedTuple

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from service.api.routing import PlainRoute
from service.errors import NotFound

# The page runs its own scripts and asks its own server, and may not be embedded.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"  # keep it, and ask whether it is still the same
VENDORED = "uplot-"  # has its version in its name
TYPES = {".js": "text/javascript", ".svg": "image/svg+xml", ".css": "text/css", ".html": "text/html"}


class File(NamedTuple):
    """A file of the page: its bytes, and the headers that go with them."""

    content: bytes
    headers: dict[str, str]


def files() -> dict[str, File]:
    """All files of the page by name."""
    found = {}
    for path in (resources.files(__package__) / "page").iterdir():
        content = path.read_bytes()
        kind = TYPES.get("." + path.name.rpartition(".")[2]) or mimetypes.types_map[".txt"]
        found[path.name] = File(
            content,
            HEADERS
            | {
                "Content-Type": kind if kind.startswith("image/") else f"{kind}; charset=utf-8",
                "Cache-Control": FOREVER if path.name.startswith(VENDORED) else ASK_AGAIN,
                "ETag": f'"{hashlib.blake2b(content, digest_size=16).hexdigest()}"',
            },
        )
    return found


def install(app: FastAPI) -> None:
    """Add the routes.

    Args:
        app: the application.
    """
    known = files()

    def reply(request: Request, name: str) -> Response:
        if name not in known:
            raise NotFound(f"the console has no file {name!r}")
        file = known[name]
        wanted = request.headers.get("if-none-match", "")
        if file.headers["ETag"] in {tag.strip().removeprefix("W/") for tag in wanted.split(",")}:
            return Response(status_code=304, headers=file.headers)
        return Response(file.content, headers=file.headers)

    async def page(request: Request) -> Response:
        return reply(request, "index.html")

    async def part(request: Request) -> Response:
        return reply(request, request.path_params["file"])

    app.router.routes.append(PlainRoute("/", page, include_in_schema=False))
    app.router.routes.append(PlainRoute("/console/{file}", part, include_in_schema=False))
