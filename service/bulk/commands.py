"""What ``soft-targets prefill``, ``import`` and ``verify`` do, and how they end."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlencode

from service.api import query
from service.bulk.data import open_dataset
from service.bulk.data.row_ids import check_unique
from service.bulk.errors import CacheLost, DataError, ExportRefused
from service.bulk.exporting import begin, export, locked
from service.bulk.filling import fill
from service.bulk.importing import bring, check
from service.bulk.labelling import Keeping, Labeller, choose
from service.bulk.manifest import NAME, Manifest
from service.bulk.progress import shown, view
from service.bulk.tally import Tally
from service.bulk.verifying import Verdict, draw, recompute
from service.config import Settings, load
from service.engine.ensemble import Overrides
from service.errors import ConfigError, RequestError, ServiceError, TeacherUnreachable

DONE, NO, WRONG, MISSING, INTERRUPTED = 0, 1, 2, 3, 130
ENDS: dict[type[ServiceError], int] = {
    ExportRefused: NO,
    CacheLost: MISSING,
    TeacherUnreachable: MISSING,
    DataError: WRONG,
    ConfigError: WRONG,
    RequestError: WRONG,
}
SHOWN = 20


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
        code: of the process.
        said: for the standard output.
        notes: for standard error, a line each.
    """

    code: int
    said: str = ""
    notes: tuple[str, ...] = ()


class Prefill(NamedTuple):
    """What is asked of a prefill.

    Attributes:
        config: the YAML file.
        data: a file, a folder or a glob.
        ensemble: its name; None where there is only one.
        recipe: its name.
        out: the folder of an export; None fills the cache.
        options: of the recipe, as a request's query would have them.
        file_rows: of each file of the export; None takes what suits the targets.
    """

    config: Path
    data: str
    ensemble: str | None
    recipe: str
    out: Path | None
    options: dict[str, str]
    file_rows: int | None


def prefill(asked: Prefill) -> Outcome:
    """Label a data set into the cache, or into Parquet."""
    return _ended(lambda: _prefill(asked))


def _prefill(asked: Prefill) -> Outcome:
    settings = load(asked.config)
    name = choose(settings, asked.ensemble)
    overrides = query.parse(urlencode(asked.options).encode()).overrides
    out, tally = asked.out, Tally(0)
    if out is None:
        _refuse_memory(settings, "or write Parquet with --out DIR, which can be imported elsewhere")
        if asked.file_rows is not None:
            raise ConfigError("--rows-per-file is of an export: it needs --out")
    keeping: Keeping = "all" if out is None else "as served"
    labeller = Labeller.open(settings, name, asked.recipe, overrides, keeping=keeping)

    async def work() -> Outcome:
        data = open_dataset(asked.data, labeller.ensemble.inputs)
        tally.rows = data.rows
        await asyncio.to_thread(check_unique, data)
        began = time.monotonic()
        if out is None:
            async with shown(view("prefill", sys.stderr), tally, labeller.store.degraded):
                wrong = await fill(labeller, data, tally)
            return _filled(tally, wrong, began)
        with locked(out):
            manifest = begin(labeller, data, out, overrides, asked.file_rows)
            async with shown(view("prefill", sys.stderr), tally, list):
                manifest = await export(labeller, data, out, manifest, tally)
        return _exported(out, manifest, tally, began)

    return _carried_out(labeller, work, tally)


def _filled(tally: Tally, wrong: str, began: float) -> Outcome:
    unkept = f", {tally.unkept} have answers that are not to be kept" if tally.unkept else ""
    said = (
        f"{tally.rows} rows: {tally.hits} were in the cache, {tally.computed - tally.unkept} are now, "
        f"{tally.failed} failed{unkept}; {_rate(tally, began)}"
    )
    fine = not (tally.failed or tally.unkept or wrong)
    return Outcome(DONE if fine else NO, said, (*tally.failures, *([wrong] if wrong else [])))


def _exported(out: Path, manifest: Manifest, tally: Tally, began: float) -> Outcome:
    counts = manifest.counts
    unkept = f", {counts['unkept']} are not to be kept in a cache" if counts["unkept"] else ""
    said = (
        f"{out}: {counts['rows']} rows in {len(manifest.files)} files, {counts['failed']} failed{unkept}; "
        f"{tally.before} were there before; {_rate(tally, began)}"
    )
    return Outcome(NO if counts["failed"] else DONE, said, tuple(tally.failures))


def import_export(config: Path, folder: Path) -> Outcome:
    """Put an export into the cache."""
    return _ended(lambda: _import(config, folder))


def _import(config: Path, folder: Path) -> Outcome:
    settings = load(config)
    _refuse_memory(settings, "and import again")
    labeller, manifest = _of_export(settings, folder, keeping="all")
    tally = Tally(manifest.data.rows)

    async def work() -> Outcome:
        await asyncio.to_thread(check, labeller, folder, manifest)
        began = time.monotonic()
        async with shown(view("import", sys.stderr), tally, labeller.store.degraded):
            wrong = await bring(labeller, folder, manifest, tally)
        left = tally.rows - tally.hits - tally.computed
        said = (
            f"{tally.rows} rows of {folder}: {tally.hits} were in the cache, {tally.computed} are now, "
            f"{left} have no target to be kept; {_rate(tally, began)}"
        )
        return Outcome(NO if wrong else DONE, said, (wrong,) if wrong else ())

    return _carried_out(labeller, work, tally)


def verify(config: Path, folder: Path, *, sample: int, data: str | None, seed: int) -> Outcome:
    """Compute some rows of an export again, and compare.

    Args:
        config: the YAML file.
        folder: of the export.
        sample: how many rows.
        data: where they are; None takes the place that they were read from.
        seed: of the draw.
    """
    return _ended(lambda: _verify(config, folder, sample, data, seed))


def _verify(config: Path, folder: Path, sample: int, path: str | None, seed: int) -> Outcome:
    settings = load(config)
    labeller, manifest = _of_export(settings, folder, keeping="nothing")
    tally = Tally(0)

    async def work() -> Outcome:
        await asyncio.to_thread(check, labeller, folder, manifest)
        try:
            data = open_dataset(path or manifest.data.path, labeller.ensemble.inputs)
        except DataError as exc:
            raise exc if path else DataError(f"{exc}; say where the data are now with --data") from None
        await asyncio.to_thread(check_unique, data)
        layout = labeller.effective.layout
        sampled = await asyncio.to_thread(draw, folder, manifest, layout, count=sample, seed=seed)
        tally.rows = len(sampled)
        async with shown(view("verify", sys.stderr), tally, list):
            verdict = await recompute(labeller, data, sampled, tally)
        return _verified(verdict, len(sampled), settings.server.spread_limit)

    return _carried_out(labeller, work, tally)


def _verified(verdict: Verdict, rows: int, limit: float) -> Outcome:
    at = "" if verdict.worst is None else f" at row {verdict.worst!r}"
    said = (
        f"{verdict.compared} of {rows} rows computed again and compared, {len(verdict.wrong)} of {rows} are "
        f"wrong; the largest difference is {verdict.nats:.3g} nats{at}, {limit:g} are allowed "
        "(server.spread_limit)"
    )
    notes = [f"row {row_id!r}: {why}" for row_id, why in verdict.wrong[:SHOWN]]
    if len(verdict.wrong) > SHOWN:
        notes.append(f"and {len(verdict.wrong) - SHOWN} more rows")
    return Outcome(NO if verdict.wrong else DONE, said, tuple(notes))


def _of_export(settings: Settings, folder: Path, *, keeping: Keeping) -> tuple[Labeller, Manifest]:
    """The recipe that an export says it is of, and its manifest."""
    try:
        manifest = Manifest.read(folder)
    except FileNotFoundError:
        raise DataError(f"{folder} holds no {NAME}: it is no export") from None
    try:
        name = choose(settings, manifest.ensemble)
        overrides = Overrides(**manifest.overrides)
        return Labeller.open(settings, name, manifest.recipe, overrides, keeping=keeping), manifest
    except RequestError as exc:
        raise ExportRefused(f"{folder} is of another configuration: {exc}") from None


def _refuse_memory(settings: Settings, otherwise: str) -> None:
    if settings.cache.address.scheme == "memory":
        raise ConfigError(
            f"cache.url is {settings.cache.url}: what is put there is gone when this command ends; name a "
            f"folder (lmdb:///...) or Redis (redis://...) as cache.url, {otherwise}"
        )


def _rate(tally: Tally, began: float) -> str:
    seconds = time.monotonic() - began
    return f"{seconds:.1f} s, {(tally.done - tally.before) / seconds:.0f} rows/s"


def _ended(work: Callable[[], Outcome]) -> Outcome:
    """What it comes to; what it raises on purpose is an outcome too."""
    try:
        return work()
    except KeyboardInterrupt:
        return Outcome(INTERRUPTED, notes=("interrupted",))
    except ServiceError as exc:
        return _stopped(exc)


def _stopped(exc: ServiceError, *more: str) -> Outcome:
    codes = [code for kind, code in ENDS.items() if isinstance(exc, kind)]
    if not codes:
        raise exc
    return Outcome(codes[0], notes=(str(exc), *more))


def _carried_out(labeller: Labeller, work: Callable[[], Awaitable[Outcome]], tally: Tally) -> Outcome:
    """Run it, and say how far it came where something stops it."""

    async def main() -> Outcome:
        try:
            return await work()
        finally:
            await labeller.close()

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        return Outcome(INTERRUPTED, notes=("interrupted", *_far(tally)))
    except ServiceError as exc:
        return _stopped(exc, *_far(tally))


def _far(tally: Tally) -> list[str]:
    if not tally.done:
        return []
    return [f"{tally.done} of {tally.rows} rows were done; the same command goes on from there"]
