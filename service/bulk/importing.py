"""An export into the cache, once all of it was looked at."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pyarrow as pa

from service.bulk.errors import ExportRefused
from service.bulk.filling import Sample
from service.bulk.labelling import Labeller, ordered
from service.bulk.ledger import arrive
from service.bulk.manifest import Manifest, refuse_foreign
from service.bulk.parts import check_files, read_part
from service.bulk.tally import Tally
from service.bulk.values import to_values
from service.keys import cache_key

# Batches that are being written and read back.
AT_A_TIME = 4


def check(labeller: Labeller, folder: Path, manifest: Manifest) -> None:
    """See that an export is of this recipe, whole, and as it was written.

    Raises:
        ExportRefused: naming what is wrong.
    """
    refuse_foreign(manifest, folder, labeller.ensemble, labeller.effective)
    rows = manifest.counts["rows"]
    if not manifest.complete or rows != manifest.data.rows:
        raise ExportRefused(
            f"{folder} is not finished: {rows} of {manifest.data.rows} rows; run its prefill again"
        )
    check_files(folder, manifest, labeller.effective.layout)


async def bring(labeller: Labeller, folder: Path, manifest: Manifest, tally: Tally) -> str:
    """Put an export that was checked into the cache; what the cache has already stays.

    Args:
        labeller: opened for keeping all.
        folder: of the export.
        manifest: in it.
        tally: of the rows; hits are those that the cache had.

    Returns:
        What is wrong with the cache, though everything arrived there; mostly nothing.

    Raises:
        CacheLost: the cache does not answer, or does not keep what it is given.
    """
    await labeller.answering()
    layout, store, sample = labeller.effective.layout, labeller.store, Sample()

    async def put(batch: pa.RecordBatch) -> tuple[int, int, list[bytes]]:
        kept = batch.filter(batch["keep"])
        values = await asyncio.to_thread(to_values, kept, layout)
        digests = kept["digest"].to_pylist()
        given = {
            cache_key(labeller.effective.fingerprint, digest): value.tobytes()
            for digest, value in zip(digests, values, strict=True)
        }
        found = await store.get_many(list(given))
        absent = {key: value for (key, value), one in zip(given.items(), found, strict=True) if one is None}
        store.put_many(absent)
        await arrive(store, absent, patience_s=labeller.patience_s)
        return len(batch), len(absent), digests

    batches = (batch for file in manifest.files for batch in read_part(folder / file.name, layout))
    async with aclosing(ordered(batches, put, at_a_time=AT_A_TIME)) as done:
        async for rows, brought, digests in done:
            tally.done += rows
            tally.computed += brought
            tally.hits += len(digests) - brought
            sample.add(digests)
    tally.failed, tally.unkept = manifest.counts["failed"], manifest.counts["unkept"]
    return await sample.gone(store, labeller.effective.fingerprint)
