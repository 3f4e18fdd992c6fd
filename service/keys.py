"""Fingerprints and cache keys: what a cached value is a function of, hashed with BLAKE3."""

import functools
import json
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

from blake3 import blake3

NAMESPACE = b"soft-targets"
FORMAT_VERSION = 1


def canonical_json(value: Any) -> bytes:
    """One text for one value: sorted keys, no spaces, UTF-8, floats in their shortest form.

    Raises:
        ValueError: a number is not finite.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def fingerprint(question: Any) -> str:
    """BLAKE3-256 of the canonical JSON, in hexadecimal."""
    return blake3(canonical_json(question)).hexdigest()


def certificate_id(question: Any, code: str) -> str:
    """The name of a certificate: BLAKE3-256 of what was asked of which code under which versions."""
    versions = {name: metadata.version(name) for name in ("numpy", "array-api-compat")}
    versions["python"] = ".".join(platform.python_version_tuple()[:2])
    return fingerprint([question, code, versions])


def cache_key(fingerprint: str, digest: bytes) -> bytes:
    """Namespace, format version, fingerprint and row digest."""
    return key_prefix(fingerprint) + digest


@functools.lru_cache(1024)
def key_prefix(fingerprint: str) -> bytes:
    """What all keys of a fingerprint begin with."""
    return b"%s:%d:" % (NAMESPACE, FORMAT_VERSION) + bytes.fromhex(fingerprint)


def digest_of(key: bytes) -> bytes:
    """The row digest in a cache key."""
    return key[-32:]


def files_digest(files: Iterable[tuple[str, Path]]) -> str:
    """BLAKE3-256 over named files: each name and size, then its bytes.

    Args:
        files: (name, path), hashed in the order given.
    """
    hasher = blake3(max_threads=blake3.AUTO)
    for name, path in files:
        hasher.update(canonical_json([name, path.stat().st_size]))
        hasher.update_mmap(path)
    return hasher.hexdigest()


def sources_digest(folder: Path) -> str:
    """BLAKE3-256 over all Python sources of a package."""
    return files_digest((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*.py")))
