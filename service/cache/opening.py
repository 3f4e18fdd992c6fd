"""From the configuration to a store."""

from service.cache.base import Cache
from service.cache.breaker import Breaker
from service.cache.lmdb import LmdbCache
from service.cache.memory import MemoryCache
from service.cache.store import Store
from service.config import REMOTE
from service.config import Cache as CacheSection
from service.errors import ConfigError


def open_store(config: CacheSection) -> Store:
    """The store as configured; a Redis that is absent may still come, and rows are computed till then.

    Raises:
        ConfigError: the folder, the password's file or the installation cannot be used.
    """
    memory = MemoryCache(max_bytes=config.memory_bytes, ttl_s=config.ttl_s)
    backend = open_backend(config)
    if backend is None:
        return Store(memory)
    breaker = Breaker(backend, failures=config.breaker.failures, retry_s=config.breaker.retry_s)
    return Store(memory, breaker, name=config.url)


def open_backend(config: CacheSection) -> Cache | None:
    """What is behind the memory of this process; None where nothing is.

    Raises:
        ConfigError: as ``open_store``.
    """
    address = config.address
    if address.scheme == "memory":
        return None
    if address.scheme in REMOTE:
        return _redis(config)
    return LmdbCache(address.path, max_bytes=address.max_bytes, ttl_s=config.ttl_s)


def _redis(config: CacheSection) -> Cache:
    try:
        from service.cache.redis import RedisCache  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ConfigError(
            f"cache.url: {config.url} needs a package that is missing ({exc.name}): "
            "pip install 'soft-targets[redis]'"
        ) from None
    return RedisCache(
        config.address,
        password=_password(config),
        ttl_s=config.ttl_s,
        call_timeout_s=config.call_timeout_ms / 1000,
    )


def _password(config: CacheSection) -> bytes | None:
    path = config.password_file
    if path is None:
        return None
    try:
        password = path.read_bytes().rstrip(b"\r\n")
    except OSError as exc:
        raise ConfigError(f"cache.password_file: {path} cannot be read: {exc.strerror}") from None
    if not password:
        raise ConfigError(f"cache.password_file: {path} is empty; write the password of {config.url} into it")
    return password
