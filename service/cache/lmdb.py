"""A cache in a folder of this machine, shared by the processes that use the same one.

Two tables: the values, each behind the time at which it expires, and their keys by that time, from whose
lower end they are evicted. LMDB's map is the bound on the file. Commits are synchronised but for their last
page: a crash of the machine may lose the last one, and leaves the file whole.
"""

import asyncio
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import lmdb

from service.errors import CacheRefused, CacheUnavailable, ConfigError

FORMAT_KEY, FORMAT = b"soft-targets", b"1"
EXPIRY = struct.Struct(">Q")  # microseconds since the epoch, so that bytes sort like times
# The part of the map above which what is written evicts twice its size. Not all of it, because a transaction
# needs new pages for all that it changes; and twice, because a page that lost some of its values is not free.
FILLED = 0.8
# The part of the rest that a transaction may change: what it replaces is free again two transactions later.
CHANGED = 0.25
# The part of the map above which a value is not kept: it needs pages in a row.
LARGEST = 0.125
# How often room is made, for twice as much each time, where there is none all the same.
ATTEMPTS = 5
# Pages that change with a small value: its own, and those of what goes for it.
CHANGED_PAGES = 4
READERS = 2


class LmdbCache:
    """Its work is done in threads of its own: it may wait for the disk, or for another process that writes.

    Args:
        folder: made if it is not there.
        max_bytes: the bound on the file.
        ttl_s: how long a value is kept.
        clock: seconds since the epoch.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._environment = lmdb.open(
                str(folder), map_size=max_bytes, max_dbs=2, max_readers=1024, max_spare_txns=READERS,
                metasync=False, readahead=False, mode=0o600,
            )  # fmt: skip
            try:
                self._values, self._order = self._tables(folder)
            except BaseException:
                self._environment.close()
                raise
        except (OSError, ValueError, lmdb.Error) as exc:
            raise ConfigError(
                f"cache.url: {folder} cannot be used as a cache: {exc}; name a folder that this user may "
                "write to, or delete this one if nothing else needs it"
            ) from None
        self._page_bytes = self._environment.stat()["psize"]
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="cache-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="cache-write")

    def _tables(self, folder: Path) -> tuple[lmdb._Database, lmdb._Database]:
        """The two tables, of a file that is whole and ours."""
        environment = self._environment
        last = environment.info()["last_pgno"]
        # A map that is longer than its file ends the process where it is read. A new file has pages 0 and 1.
        if last > 1 and (folder / "data.mdb").stat().st_size <= last * environment.stat()["psize"]:
            raise lmdb.CorruptedError("data.mdb was cut short")
        with environment.begin(write=True) as transaction:
            if environment.stat()["entries"] and transaction.get(FORMAT_KEY) != FORMAT:
                raise lmdb.IncompatibleError("it holds another program's data, or another version's")
            transaction.put(FORMAT_KEY, FORMAT)
            return (
                environment.open_db(b"values", txn=transaction),
                environment.open_db(b"order", txn=transaction),
            )

    async def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values, in the order of the keys; None where there is none.

        Raises:
            CacheUnavailable: the file cannot be read.
        """
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._get, keys)

    async def set_many(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the values; those that expire first make room, and one that is kept already stays.

        Raises:
            CacheUnavailable: the file cannot be written; ``CacheRefused`` if there is no room.
        """
        await asyncio.get_running_loop().run_in_executor(self._writer, self._set, items)

    async def delete_many(self, keys: Sequence[bytes]) -> None:
        """Forget the values.

        Raises:
            CacheUnavailable: the file cannot be written.
        """
        await asyncio.get_running_loop().run_in_executor(self._writer, self._delete, keys)

    async def close(self) -> None:
        """Finish what is being read and written, and close the file."""
        for pool in (self._readers, self._writer):
            await asyncio.to_thread(pool.shutdown)
        self._environment.close()

    def _time(self, later_s: float = 0) -> bytes:
        return EXPIRY.pack(int((self._clock() + later_s) * 1e6))

    def _get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        now = self._time()
        try:
            with self._environment.begin(self._values, buffers=True) as transaction:
                get = transaction.get
                return [
                    bytes(kept[EXPIRY.size :])
                    if (kept := get(key)) is not None and bytes(kept[: EXPIRY.size]) > now
                    else None
                    for key in keys
                ]
        except lmdb.Error as exc:
            raise CacheUnavailable(str(exc)) from None

    def _set(self, items: Mapping[bytes, bytes]) -> None:
        most = CHANGED * (1 - FILLED) * self._max_bytes
        part: dict[bytes, bytes] = {}
        changed = 0
        try:
            for key, value in items.items():
                if len(value) > LARGEST * self._max_bytes:
                    continue
                part[key] = value
                changed += len(value) + CHANGED_PAGES * self._page_bytes
                if changed > most:
                    self._put(part)
                    part, changed = {}, 0
            self._put(part)
        except lmdb.MapFullError:
            raise CacheRefused("max_bytes is too little for what is written") from None
        except lmdb.Error as exc:
            raise CacheUnavailable(str(exc)) from None

    def _put(self, items: Mapping[bytes, bytes]) -> None:
        """Write in one transaction; where it has no room, in one behind another that makes some."""
        size = sum(len(key) + len(value) for key, value in items.items())
        for attempt in range(ATTEMPTS):
            try:
                with self._environment.begin(write=True, buffers=True) as transaction:
                    if self._used(transaction) > FILLED * self._max_bytes:
                        self._evict(transaction, 2 * size)
                    self._insert(transaction, items)
            except lmdb.MapFullError:
                if attempt == ATTEMPTS - 1:
                    raise
                # A process that was killed while it read may still hold pages.
                self._environment.reader_check()
                with self._environment.begin(write=True, buffers=True) as transaction:
                    self._evict(transaction, size << attempt)
            else:
                return

    def _insert(self, transaction: lmdb.Transaction, items: Mapping[bytes, bytes]) -> None:
        now, expiry = self._time(), self._time(self._ttl_s)
        for key, value in items.items():
            kept = transaction.get(key, db=self._values)
            if kept is not None:
                until = bytes(kept[: EXPIRY.size])
                if until > now:
                    continue
                transaction.delete(until + key, db=self._order)
            transaction.put(key, expiry + value, db=self._values)
            transaction.put(expiry + key, b"", db=self._order)

    def _used(self, transaction: lmdb.Transaction) -> int:
        pages = 0
        for table in (self._values, self._order):
            counts = transaction.stat(table)
            pages += counts["branch_pages"] + counts["leaf_pages"] + counts["overflow_pages"]
        return pages * self._page_bytes

    def _evict(self, transaction: lmdb.Transaction, size: int) -> None:
        """Drop the values that expire first, that many bytes of them."""
        with transaction.cursor(self._order) as cursor:
            while size > 0 and cursor.first():
                key = bytes(cursor.key()[EXPIRY.size :])
                kept = transaction.get(key, db=self._values)
                size -= len(key) + (len(kept) if kept is not None else 0)
                transaction.delete(key, db=self._values)
                cursor.delete()

    def _delete(self, keys: Sequence[bytes]) -> None:
        try:
            with self._environment.begin(write=True) as transaction:
                for key in keys:
                    kept = transaction.pop(key, db=self._values)
                    if kept is not None:
                        transaction.delete(kept[: EXPIRY.size] + key, db=self._order)
        except lmdb.Error as exc:
            raise CacheUnavailable(str(exc)) from None
