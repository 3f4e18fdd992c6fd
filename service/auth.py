"""Keys and scopes: who may do what, and where keys are kept.

A keys file holds one JSON object a line, and never a key itself::

    {"name":"trainer","scopes":["targets:read"],"created":"2026-11-20","blake3":"<64 hexadecimal digits>"}

Keys are 256 random bits, so no dictionary helps against a plain hash of one, and a slow password hash would
only slow down every request. Deleting a line revokes its key at the next start.
"""

import fcntl
import hmac
import ipaddress
import os
import secrets
import stat
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Annotated

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.config import Auth
from service.config.values import Name
from service.errors import ConfigError, Forbidden, Unauthenticated

PREFIX = "st_"
MAKE_ONE = "soft-targets key new --keys-file FILE --scope targets:read"


class Scope(StrEnum):
    """What a key allows; none includes another."""

    TARGETS_READ = "targets:read"
    RECIPES_WRITE = "recipes:write"
    ADMIN = "admin"


class Key(BaseModel):
    """One line of a keys file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Name
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    created: date
    blake3: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]


@dataclass(frozen=True)
class Access:
    """Who may do what on this server.

    Attributes:
        keys: those that are known; None where the server has no keys.
        open: without keys, everyone may do everything, from anywhere.
        warnings: what whoever runs the server should know.
    """

    keys: tuple[Key, ...] | None = field(default=None, repr=False)
    open: bool = False
    warnings: tuple[str, ...] = ()

    def require(self, scope: Scope, presented: Collection[bytes]) -> str:
        """Let a request pass, or not.

        Args:
            scope: what it needs.
            presented: the different keys that came with it; looked at only where the server has keys.

        Returns:
            The name of the key; empty where the server has none.

        Raises:
            Unauthenticated: the server has keys, and the request came without exactly one of them.
            Forbidden: the key lacks the scope; or the server has no keys, and this is not for everyone.
        """
        if self.keys is None:
            if scope is not Scope.TARGETS_READ and not self.open:
                raise Forbidden(
                    f"this needs the scope {scope}, and the server has no keys; make one with "
                    f"'{MAKE_ONE}' and name the file in auth.keys_file"
                )
            return ""
        if not presented:
            raise Unauthenticated("this needs a key: send Authorization: Bearer KEY, or X-API-Key: KEY")
        if len(presented) > 1:
            raise Unauthenticated("the request carries different keys; send one")
        key = self._find(next(iter(presented)))
        if key is None:
            raise Unauthenticated("the key is not known here; ask whoever runs the server for one")
        if scope not in key.scopes:
            raise Forbidden(f"this needs the scope {scope}; the key {key.name!r} has {', '.join(key.scopes)}")
        return key.name

    def require_loopback(self, host: str, addresses: Iterable[str]) -> None:
        """Without keys nobody else may reach the server, unless it is meant to be open.

        Args:
            host: as configured.
            addresses: all that the host stands for.

        Raises:
            ConfigError: one of them can be reached from elsewhere.
        """
        if self.keys is not None or self.open:
            return
        for address in addresses:
            if not ipaddress.ip_address(address).is_loopback:
                raise ConfigError(
                    f"server.host {host} ({address}) can be reached from other machines, and there are no "
                    f"keys: make one with '{MAKE_ONE}' and name the file in auth.keys_file, or set "
                    "server.host: 127.0.0.1, or set auth.open: true to let everyone do everything"
                )

    def _find(self, presented: bytes) -> Key | None:
        """The key presented; all are compared, each in constant time, so that time tells nothing."""
        digest, found = _digest(presented), None
        for key in self.keys or ():
            if hmac.compare_digest(key.blake3, digest):
                found = key
        return found


def open_access(auth: Auth) -> Access:
    """Read what the configuration says of keys.

    Raises:
        ConfigError: the keys file is missing, unreadable, malformed or empty.
    """
    if auth.keys_file is None:
        everyone = ("auth.open: whoever reaches this server may use every route",) if auth.open else ()
        return Access(open=auth.open, warnings=everyone)
    path = auth.keys_file
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such keys file; make one with '{MAKE_ONE}', or name it by its whole path: others "
            "begin at the configuration's folder"
        ) from None
    except OSError as exc:
        raise ConfigError(f"{path}: the keys file cannot be read: {exc.strerror}") from None
    keys = _parse(path, text)
    if not keys:
        raise ConfigError(f"{path}: the keys file holds no keys; make one with '{MAKE_ONE}'")
    shared = f"{path}: the keys file is open to others (mode {mode:04o}); chmod 600 it"
    return Access(keys=keys, warnings=(shared,) if mode & 0o077 else ())


def new_key(path: Path, scopes: Sequence[str], *, name: str | None = None) -> tuple[str, Key]:
    """Make a key and keep its hash.

    Args:
        path: the keys file; created for its owner alone, or extended.
        scopes: what the key allows.
        name: what it is called; ``key-1``, ``key-2`` ... by default.

    Returns:
        The key, which is kept nowhere, and its line in the file.

    Raises:
        ConfigError: a scope is unknown, the name is taken or none, or the file cannot be used.
    """
    path = path.resolve()  # through a symbolic link, the file and not the link is replaced
    secret = PREFIX + secrets.token_urlsafe(32)
    try:
        with _alone(path.parent):
            old = path.read_bytes() if path.exists() else b""
            names = {key.name for key in _parse(path, old)}
            if name in names:
                raise ConfigError(f"{path}: a key named {name!r} exists; take another name")
            key = _key(
                secret,
                name=next(free for n in count(1) if (free := f"key-{n}") not in names)
                if name is None
                else name,
                scopes=scopes,
            )
            lines = old if not old or old.endswith(b"\n") else old + b"\n"
            _replace(path, lines + key.model_dump_json().encode() + b"\n")
    except OSError as exc:
        raise ConfigError(f"{path}: the keys file cannot be written: {exc.strerror}") from None
    return secret, key


def _digest(key: bytes) -> str:
    return blake3(key).hexdigest()


def _key(secret: str, *, name: str, scopes: Sequence[str]) -> Key:
    unknown = [scope for scope in scopes if scope not in list(Scope)]
    if unknown or not scopes:
        said = f"unknown scope {unknown[0]!r}" if unknown else "a key needs a scope"
        raise ConfigError(f"{said}; known: {', '.join(Scope)}")
    try:
        return Key(
            name=name,
            scopes=tuple(Scope(scope) for scope in dict.fromkeys(scopes)),
            created=datetime.now(UTC).date(),
            blake3=_digest(secret.encode()),
        )
    except ValidationError as exc:
        raise ConfigError(_findings(exc)) from None


def _parse(path: Path, text: bytes) -> tuple[Key, ...]:
    """The keys of a file; what a broken line holds is not repeated, because it may be a key."""
    keys: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            key = Key.model_validate_json(line)
        except ValidationError as exc:
            raise ConfigError(
                f"{where}: is no key ({_findings(exc)}); lines are written by 'soft-targets key new'"
            ) from None
        if key.name in keys:
            raise ConfigError(f"{where}: the name {key.name!r} stands twice; delete one of the lines")
        keys[key.name] = key
    return tuple(keys.values())


def _findings(exc: ValidationError) -> str:
    known = Key.model_fields
    return "; ".join(
        ": ".join([*(str(part) for part in error["loc"][:1] if part in known), error["msg"]])
        for error in exc.errors(include_input=False)
    )


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One writer at a time, so that two keys made at once are both kept."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, content: bytes) -> None:
    """Write the whole file or leave it as it is; owner and mode stay, and a new one is its owner's alone."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.exists():
                old = path.stat()
                os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
                os.fchown(descriptor, old.st_uid, old.st_gid)
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
