"""A data set into Parquet: file by file, each whole before the manifest names it."""

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from service.bulk.data import Chunk, Dataset
from service.bulk.errors import DataError, ExportRefused
from service.bulk.labelling import Labeller
from service.bulk.manifest import FORMAT, NAME, Data, DataFile, Manifest, made_of, refuse_foreign
from service.bulk.parts import PARTIAL, PartWriter, RowsDigest, check_files, rows_per_file
from service.bulk.tally import Tally
from service.engine.ensemble import Overrides

LOCK = ".lock"

T = TypeVar("T")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Have a folder for this process alone; one that is killed lets go of it.

    Raises:
        DataError: another process has it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as exc:
        raise DataError(f"{folder} cannot be written to: {exc.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise DataError(f"{folder} is being written by another process") from None
    try:
        yield
    finally:
        os.close(handle)


def begin(
    labeller: Labeller, data: Dataset, folder: Path, overrides: Overrides, file_rows: int | None
) -> Manifest:
    """The manifest that an export goes on from: what is in the folder, or a new one.

    Args:
        labeller: of the recipe.
        data: to label.
        folder: locked.
        overrides: of the recipe.
        file_rows: of a file; None takes what is in the folder, or a size that suits the targets.

    Raises:
        DataError: the folder holds something else.
        ExportRefused: it holds an export of another recipe or other data, or one that is damaged.
    """
    ensemble, effective = labeller.ensemble, labeller.effective
    new = Manifest(
        format=FORMAT,
        complete=False,
        ensemble=ensemble.name,
        recipe=effective.name,
        fingerprint=effective.fingerprint,
        temperature=effective.recipe.temperature,
        operator=effective.recipe.operator.as_dict(),
        certificate=effective.certificate.id,
        violations=effective.metadata["violations"],
        classes=ensemble.classes,
        classes_digest=ensemble.classes_digest,
        overrides={name: value for name, value in asdict(overrides).items() if value is not None},
        made_of=made_of(ensemble, effective),
        data=Data(
            path=str(Path(data.path).absolute()),
            rows=data.rows,
            files=tuple(DataFile(name=name, rows=rows) for name, rows in data.files()),
        ),
        row_id=str(data.ids_type),
        rows_per_file=file_rows or rows_per_file(effective.layout),
    )
    try:
        old = Manifest.read(folder)
    except FileNotFoundError:
        odd = [one.name for one in folder.iterdir() if one.name != LOCK and not one.name.endswith(PARTIAL)]
        if odd:
            raise DataError(
                f"{folder} holds {odd[0]} and no {NAME}; name a folder that is empty, or one to go on in"
            ) from None
        new.write(folder)
        return new
    refuse_foreign(old, folder, ensemble, effective)
    for what, there, here in (
        ("the data", _shown(old.data), _shown(new.data)),
        ("the kind of the row ids", old.row_id, new.row_id),
        ("the number of rows in a file", old.rows_per_file, file_rows or old.rows_per_file),
    ):
        if there != here:
            raise ExportRefused(f"{folder}: {what} was {there} and is {here}; name another folder")
    if old.data.files != new.data.files:
        raise ExportRefused(f"{folder}: the files of the data have other names or sizes; name another folder")
    check_files(folder, old, effective.layout)
    return old


def _shown(data: Data) -> str:
    count, names = len(data.files), ", ".join(file.name for file in data.files[:3])
    return f"{count} file{'s' * (count != 1)} of {data.rows} rows ({names})"


def unfinished(data: Dataset, manifest: Manifest, rows: int, tally: Tally) -> Iterator[Chunk]:
    """The rows that are in no file yet; the others are read too, and must be those that are in the files.

    Args:
        data: to label.
        manifest: of what is done.
        rows: of a chunk.
        tally: of the rows.

    Raises:
        DataError: (from the iterator) the data say so.
        ExportRefused: (from the iterator) rows are not those that were labelled.
    """
    done = manifest.files[-1].stop if manifest.files else 0
    digest = RowsDigest()
    for chunk in data.chunks(rows, every=manifest.rows_per_file):
        if chunk.start >= done:
            yield chunk
            continue
        digest.add(chunk)
        tally.done += len(chunk.digests)
        tally.before += len(chunk.digests)
        file = manifest.files[chunk.start // manifest.rows_per_file]
        if chunk.stop == file.stop:
            if digest.hexdigest() != file.rows_blake3:
                raise ExportRefused(
                    f"the data have changed: rows {file.first_row} to {file.stop - 1} of {data.path} are not "
                    f"those that {file.name} was made of; name another folder"
                )
            digest = RowsDigest()


async def export(
    labeller: Labeller, data: Dataset, folder: Path, manifest: Manifest, tally: Tally
) -> Manifest:
    """Label what is not yet in the export.

    Args:
        labeller: of the recipe.
        data: to label.
        folder: of the export, locked.
        manifest: to go on from.
        tally: of the rows.

    Returns:
        The manifest of the whole.

    Raises:
        DataError: the data say so; files that are whole stay.
        ExportRefused: the data are not those that were begun with.
    """
    layout = labeller.effective.layout
    chunks = unfinished(data, manifest, labeller.chunk_rows, tally)
    writer: PartWriter | None = None
    # One thread, so that what is abandoned is not being written any more.
    with ThreadPoolExecutor(1, thread_name_prefix="export") as disk:
        write = partial(_written, disk, folder)
        try:
            async with aclosing(labeller.label(chunks, kept=False)) as answered:
                async for labelled in answered:
                    chunk = labelled.chunk
                    if writer is None:
                        begun = partial(
                            PartWriter, folder, len(manifest.files), chunk.start, layout, data.ids_type
                        )
                        writer = await write(begun)
                    await write(partial(writer.add, labelled))
                    tally.add(labelled)
                    if chunk.stop % manifest.rows_per_file == 0 or chunk.stop == data.rows:
                        file = await write(writer.finish)
                        writer = None
                        manifest = manifest.model_copy(update={"files": (*manifest.files, file)})
                        await write(partial(manifest.write, folder))
            if not manifest.complete:
                manifest = manifest.model_copy(update={"complete": True})
                await write(partial(manifest.write, folder))
        except BaseException:
            tally.done = manifest.counts["rows"]  # the rest of a file that is not whole is done again
            if writer is not None:
                disk.submit(writer.abandon)
            raise
    return manifest


async def _written(disk: Executor, folder: Path, write: Callable[[], T]) -> T:
    try:
        return await asyncio.get_running_loop().run_in_executor(disk, write)
    except OSError as exc:
        raise DataError(f"{folder} cannot be written to: {exc}") from None
