import hmac
import json
import re
import threading
from pathlib import Path

import pytest
from blake3 import blake3
from typer.testing import CliRunner

from service import auth, cli
from service.auth import Access, Scope, new_key, open_access
from service.config import Auth
from service.errors import ConfigError, Forbidden, Unauthenticated

READ, WRITE, ADMIN = Scope
LINE = {"name": "a", "scopes": ["targets:read"], "created": "2026-11-20", "blake3": "0" * 64}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys.jsonl"


def mode(path):
    return path.stat().st_mode & 0o777


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def access_of(path):
    return open_access(Auth(keys_file=path))


# ----------------------------------------------------------------------------------------------- making keys


def test_a_new_key_is_kept_as_its_hash_alone(path):
    secret, key = new_key(path, ["targets:read", "admin", "admin"], name="trainer")
    assert re.fullmatch(r"st_[A-Za-z0-9_-]{43}", secret)
    [line] = lines(path)
    assert line == {
        "name": "trainer",
        "scopes": ["targets:read", "admin"],
        "created": key.created.isoformat(),
        "blake3": blake3(secret.encode()).hexdigest(),
    }
    assert secret not in path.read_text()
    assert mode(path) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert access_of(path).keys == (key,)


def test_existing_keys_are_kept_and_names_are_unique(path):
    first, _ = new_key(path, ["targets:read"])
    path.write_text(path.read_text().rstrip("\n"))  # as an editor may leave it
    second, _ = new_key(path, ["recipes:write"])
    third, _ = new_key(path, ["targets:read"], name="x")
    assert len({first, second, third}) == 3
    assert [line["name"] for line in lines(path)] == ["key-1", "key-2", "x"]
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="a key named 'x' exists; take another name"):
        new_key(path, ["targets:read"], name="x")
    assert path.read_bytes() == before


def test_keys_made_at_once_are_all_kept(path):
    makers = [threading.Thread(target=new_key, args=(path, ["admin"])) for _ in range(8)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert {line["name"] for line in lines(path)} == {f"key-{n}" for n in range(1, 9)}


def test_a_write_that_fails_leaves_the_file_as_it_was(path, monkeypatch):
    new_key(path, ["admin"])
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(auth.os, "fsync", full)
    with pytest.raises(ConfigError, match="cannot be written: No space left on device"):
        new_key(path, ["admin"])
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_mode_and_link_of_an_existing_file_stay(path, tmp_path):
    new_key(path, ["admin"])
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    new_key(link, ["admin"])
    assert link.is_symlink()
    assert mode(path) == 0o640
    assert len(lines(path)) == 2


@pytest.mark.parametrize(
    ("scopes", "name", "said"),
    [
        (["targets:write"], None, "unknown scope 'targets:write'; known: targets:read, recipes:write, admin"),
        ([], None, "a key needs a scope; known: targets:read"),
        (["admin"], "a b", "'a b' is no name"),
        (["admin"], "", "'' is no name"),
    ],
)
def test_what_no_key_can_be_is_refused(path, scopes, name, said):
    with pytest.raises(ConfigError, match=said):
        new_key(path, scopes, name=name)
    assert not path.exists()


def test_a_file_that_cannot_be_extended(path, tmp_path):
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        new_key(tmp_path / "nowhere" / "keys", ["admin"])
    with pytest.raises(ConfigError, match="cannot be written: Is a directory"):
        new_key(tmp_path, ["admin"])
    path.write_text("st_secret\n")
    with pytest.raises(ConfigError, match="line 1: is no key"):
        new_key(path, ["admin"])
    assert path.read_text() == "st_secret\n"


def test_the_command_prints_the_key_alone_and_once(path):
    options = ["key", "new", "--keys-file", str(path), "--scope", "targets:read", "--scope", "admin"]
    made = CliRunner().invoke(cli.app, [*options, "--name", "me"])
    assert made.exit_code == 0
    secret = made.stdout.strip()
    assert access_of(path).require(ADMIN, {secret.encode()}) == "me"
    assert "me may targets:read, admin" in made.stderr
    assert secret not in made.stderr
    again = CliRunner().invoke(cli.app, [*options, "--name", "me"])
    assert again.exit_code == 2
    assert again.stdout == ""
    assert again.stderr.startswith("soft-targets: ")
    wrong = CliRunner().invoke(cli.app, [*options, "--scope", "all"])
    assert wrong.exit_code == 2
    assert "unknown scope 'all'; known: targets:read, recipes:write, admin" in wrong.stderr
    assert CliRunner().invoke(cli.app, ["key", "new", "--keys-file", str(path)]).exit_code == 2


# ----------------------------------------------------------------------------------------------- reading them


def test_a_file_that_others_may_read_is_warned_of(path):
    new_key(path, ["admin"])
    assert access_of(path).warnings == ()
    path.chmod(0o644)
    [warning] = access_of(path).warnings
    assert warning == f"{path}: the keys file is open to others (mode 0644); chmod 600 it"


def test_a_file_that_is_not_there_or_no_file(path, tmp_path):
    with pytest.raises(ConfigError, match="no such keys file; make one with 'soft-targets key new"):
        access_of(path)
    with pytest.raises(ConfigError, match="the keys file cannot be read: Is a directory"):
        access_of(tmp_path)
    path.write_text("")
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        access_of(path / "inner")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file(path, text):
    path.write_text(text)
    with pytest.raises(ConfigError, match="holds no keys; make one with"):
        access_of(path)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("st_topsecret", "Invalid JSON"),
        (b"\xff", "Invalid JSON"),
        ('"st_topsecret"', "should be an object"),
        ("{}", "name: Field required"),
        (LINE | {"key": "st_topsecret"}, "Extra inputs are not permitted"),
        (LINE | {"blake3": "st_topsecret"}, "blake3: String should match pattern"),
        (LINE | {"scopes": []}, "scopes: Tuple should have at least 1 item"),
        (LINE | {"scopes": ["all"]}, "scopes: Input should be 'targets:read', 'recipes:write' or 'admin'"),
        (LINE | {"name": "a b"}, "name: 'a b' is no name"),
        (LINE | {"created": "yesterday"}, "created: "),
        (LINE | {"name": "good"}, "the name 'good' stands twice"),
    ],
)
def test_a_broken_line_is_named_and_not_repeated(path, line, said):
    line = json.dumps(line) if isinstance(line, dict) else line
    good = json.dumps(LINE | {"name": "good"}).encode()
    path.write_bytes(good + b"\n\n" + (line if isinstance(line, bytes) else line.encode()))
    with pytest.raises(ConfigError) as told:
        access_of(path)
    assert f"{path}, line 3: " in str(told.value)
    assert said in str(told.value)
    assert "topsecret" not in str(told.value)


# ----------------------------------------------------------------------------------------------- who may what


def test_with_keys_a_key_of_the_scope_is_needed(path):
    reader = new_key(path, ["targets:read"], name="reader")[0].encode()
    admin = new_key(path, ["admin"], name="boss")[0].encode()
    access = access_of(path)
    access.require(READ, {reader})
    access.require(ADMIN, {admin})
    with pytest.raises(Forbidden, match="needs the scope admin; the key 'reader' has targets:read"):
        access.require(ADMIN, {reader})
    with pytest.raises(Forbidden, match="needs the scope targets:read; the key 'boss' has admin"):
        access.require(READ, {admin})
    for scope in Scope:
        with pytest.raises(Unauthenticated, match="send Authorization: Bearer KEY"):
            access.require(scope, set())
        with pytest.raises(Unauthenticated, match="different keys"):
            access.require(scope, {reader, admin})
        for wrong in (b"st_", reader[:-1], reader + b"x", b"\xff", access.keys[0].blake3.encode()):
            with pytest.raises(Unauthenticated, match="not known"):
                access.require(scope, {wrong})


def test_every_key_is_compared_whichever_it_is(path, monkeypatch):
    made = [new_key(path, ["admin"])[0].encode() for _ in range(4)]
    access, compare, compared = access_of(path), hmac.compare_digest, []

    def counting(*pair):
        compared.append(pair)
        return compare(*pair)

    monkeypatch.setattr(auth.hmac, "compare_digest", counting)
    for key in made:
        compared.clear()
        access.require(ADMIN, {key})
        assert len(compared) == 4


def test_without_keys_only_reading_is_for_everyone():
    access = open_access(Auth())
    assert access.warnings == ()
    for presented in (set(), {b"st_any"}, {b"a", b"b"}):
        access.require(READ, presented)
        for scope in (WRITE, ADMIN):
            with pytest.raises(Forbidden, match=f"needs the scope {scope}, and the server has no keys; make"):
                access.require(scope, presented)


def test_open_is_for_everyone_and_is_warned_of():
    access = open_access(Auth(open=True))
    for scope in Scope:
        access.require(scope, set())
    assert access.warnings == ("auth.open: whoever reaches this server may use every route",)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["::1"], ["::1", "127.0.0.1"], ["127.8.9.1"]])
def test_loopback_needs_no_keys(addresses):
    Access().require_loopback("host", addresses)


@pytest.mark.parametrize(
    "addresses",
    [["0.0.0.0"], ["::"], ["192.168.1.5"], ["127.0.0.1", "10.0.0.1"], ["fe80::1%eth0"], ["::ffff:10.0.0.1"]],
)
def test_other_addresses_need_keys_or_to_be_open(path, addresses):
    with pytest.raises(ConfigError) as told:
        Access().require_loopback("host", addresses)
    for what in (
        "server.host host",
        addresses[-1],
        "key new",
        "auth.keys_file",
        "auth.open: true",
        "127.0.0.1",
    ):
        assert what in str(told.value)
    new_key(path, ["admin"])
    access_of(path).require_loopback("host", addresses)
    Access(open=True).require_loopback("host", addresses)


def test_nothing_shown_holds_a_secret(path):
    secret, key = new_key(path, ["targets:read"])
    access = access_of(path)
    shown = [repr(access), repr(key), str(key), repr(Auth(keys_file=path))]
    for presented in ({secret.encode()}, {secret.encode(), b"st_other"}, {secret.encode() + b"x"}):
        with pytest.raises((Forbidden, Unauthenticated)) as told:
            access.require(ADMIN, presented)
        shown.append(str(told.value))
    for text in shown:
        assert secret not in text
        assert key.blake3 not in text


def test_the_scopes_are_the_documented_ones():
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    for scope in Scope:
        assert f"`{scope}`" in readme
