"""The commands over whole data sets, as they are typed; what they need is loaded when one is."""

from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from service.bulk.commands import Outcome

ConfigFile = Annotated[Path, typer.Argument(help="The YAML file.", metavar="CONFIG")]
ExportFolder = Annotated[Path, typer.Argument(help="The folder that --out named.", metavar="DIR")]


class Runner(StrEnum):
    """What runs the teachers."""

    local = "local"
    ray = "ray"


def prefill(
    config: ConfigFile,
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Parquet, .npz, .npy, a folder or glob of them, or what save_to_disk wrote."
        ),
    ],
    *,
    ensemble: Annotated[str | None, typer.Option(help="Which; not needed where there is one.")] = None,
    recipe: Annotated[str, typer.Option(help="Of the ensemble.")] = "default",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Into Parquet, not into the cache.")] = None,
    engine: Annotated[Runner, typer.Option(help="What runs the teachers.")] = Runner.local,
    temperature: Annotated[str | None, typer.Option(help="Instead of the recipe's.")] = None,
    weights: Annotated[str | None, typer.Option(metavar="A:1,B:2", help="Likewise; unnamed = 0.")] = None,
    top_k: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    dtype: Annotated[str | None, typer.Option(help="Likewise: float32 or float16.")] = None,
    rows_per_file: Annotated[int | None, typer.Option(min=1, help="Of an export.")] = None,
) -> None:
    """Label a data set into the cache, or into Parquet; run again, it goes on where it was.

    Exit code 0: every row is labelled; 1: some failed; 2: the data or the command is wrong; 3: the cache
    does not keep what it is given.
    """
    if engine is Runner.ray:
        typer.echo("soft-targets: --engine ray is not yet supported; leave it out, or say local", err=True)
        raise typer.Exit(2)
    commands = _loaded()
    given = {"temperature": temperature, "weights": weights, "top_k": top_k, "dtype": dtype}
    options = {name: value for name, value in given.items() if value is not None}
    _end(commands.prefill(commands.Prefill(config, data, ensemble, recipe, out, options, rows_per_file)))


def import_export(config: ConfigFile, folder: ExportFolder) -> None:
    """Put what prefill --out wrote into the cache, if it is of this recipe and whole.

    Exit code 0: it is there; 1: it is of another recipe, or not whole; 2: the command is wrong; 3: the cache
    does not keep what it is given.
    """
    _end(_loaded().import_export(config, folder))


def verify(
    config: ConfigFile,
    folder: ExportFolder,
    *,
    sample: Annotated[int, typer.Option(min=1, help="How many rows.")],
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Where the data are, if not where they were.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample.")] = 0,
) -> None:
    """Compute some rows of an export again, and compare.

    Exit code 0: they are as they were; 1: some are not, or it is no export of this recipe; 2: it could not
    be judged.
    """
    _end(_loaded().verify(config, folder, sample=sample, data=data, seed=seed))


def _loaded() -> ModuleType:
    from service import telemetry  # noqa: PLC0415 - a command loads what it needs
    from service.bulk import commands  # noqa: PLC0415

    telemetry.configure()
    return commands


def _end(outcome: "Outcome") -> NoReturn:
    """Say how a command ended, and end."""
    for note in outcome.notes:
        typer.echo(f"soft-targets: {note}", err=True)
    if outcome.said:
        typer.echo(outcome.said)
    raise typer.Exit(outcome.code)
