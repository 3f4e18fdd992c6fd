"""The page as it is served: what it consists of, and what it may do."""

import re
from pathlib import Path

import pytest

from service.api import console

FOLDER = Path(console.__file__).parent / "page"
NAMES = sorted(path.name for path in FOLDER.iterdir())
OWN = [name for name in NAMES if not name.startswith("uplot-")]


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_once_and_asked_again(client, name):
    reply = client.get(f"/console/{name}")
    assert reply.status_code == 200
    assert reply.content == (FOLDER / name).read_bytes()
    assert reply.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert "unsafe" not in reply.headers["content-security-policy"]
    assert reply.headers["x-content-type-options"] == "nosniff"
    kinds = {"js": "text/javascript", "css": "text/css", "html": "text/html", "svg": "image/svg+xml"}
    assert reply.headers["content-type"].startswith(kinds.get(name.rpartition(".")[2], "text/plain"))
    kept = "immutable" in reply.headers["cache-control"]
    assert kept == name.startswith("uplot-")
    again = client.get(f"/console/{name}", headers={"If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/console/{name}", headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_page_is_its_first_file_and_others_are_not_found(client):
    assert client.get("/").content == client.get("/console/index.html").content
    assert client.head("/").status_code == 200
    for name in ("nothing.js", "..%2f__init__.py"):
        reply = client.get(f"/console/{name}")
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
def test_no_page_is_served_that_loads_from_elsewhere(client, path):
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("name", OWN)
def test_nothing_comes_from_elsewhere_and_nothing_is_inline(name):
    text = (FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|//cdn|@import|eval\(|innerHTML|localStorage|document\.cookie", text)
    assert not re.search(r"<script>|<style|\son\w+=|\sstyle=", text)
    for named in re.findall(r'(?:href|src)="console/([^"]+)"|from "\./([^"]+)"', text):
        assert (FOLDER / "".join(named)).exists(), named
