import json
import os
import pty

import pytest

from service.api.banner import announce, served
from service.auth import Access, new_key, open_access
from service.config import load
from service.config.settings import Auth
from service.engine.engine import Engine


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    path = tmp_path_factory.mktemp("banner") / "c.yaml"
    path.write_text("""\
ensembles:
  toy:
    classes: [a, b, c]
    teachers:
      - {name: one, model: "fake://?classes=3&features=2", output: {kind: logits}}
      - {name: two, model: "fake://?classes=3&features=2&seed=1", output: {kind: logits}}
    batching: {max_rows: 4, in_flight: 1, threads: 1}
    recipes: {default: {operator: linear}, hot: {operator: linear, temperature: 4}}
""")
    settings = load(path)
    return Engine.open(settings), settings


def test_a_log_has_it_as_one_event(server):
    (event,) = [json.loads(line) for line in server.log().splitlines() if '"serving"' in line]
    assert event["event"] == "serving"
    assert event["url"] == server.url
    assert event["access"] == "whoever is on this machine may ask; no keys"
    assert event["ensembles"][0]["teachers"] == ["logits", "probs", "merged"]
    assert event["ensembles"][0]["devices"] == ["cpu"]
    assert set(event["ensembles"][0]["plans"]) == {"staged"}


def on_a_terminal(monkeypatch, *arguments, **options):
    """What is announced where standard error is a terminal: each line's words."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        with monkeypatch.context() as patched:
            patched.setattr("sys.stderr", terminal)
            announce(*arguments, **options)
        terminal.flush()
        text = os.read(ours, 65536).decode()
    os.close(ours)
    return [line.split() for line in text.splitlines()]


def test_a_terminal_shows_what_is_served_where_and_for_whom(opened, monkeypatch, tmp_path):
    engine, settings = opened
    keys = tmp_path / "keys.jsonl"
    new_key(keys, ["targets:read"])
    settings = settings.model_copy(update={"auth": Auth(keys_file=keys)})
    access = open_access(settings.auth)
    lines = on_a_terminal(monkeypatch, "http://h:1", served(engine), settings, access, workers=2)
    assert lines == [
        ["ensemble", "toy:", "recipes", "default,", "hot"],
        ["teachers", "one,", "two", "on", "cpu;", "plans:", "1", "split"],
        ["cache", "memory://?max_bytes=512MiB"],
        ["access", "1", "key", "of", str(keys)],
        ["workers", "2"],
        ["console", "http://h:1/"],
        ["ready", "http://h:1/readyz"],
    ]


def test_an_open_server_says_so(opened, monkeypatch):
    lines = on_a_terminal(monkeypatch, "http://h:1", [], opened[1], Access(open=True))
    assert ["access", "everyone", "may", "do", "everything"] in lines
