"""The command line: ``soft-targets serve CONFIG``, ``check``, ``certify``, ``prefill`` and the others.

Exit codes: 0 done; 1 the answer is no; 2 wrong usage or configuration; 3 something needed is missing;
130 interrupted.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

import service
from service.bulk import command_line as bulk
from service.errors import ConfigError, ServiceError, TeacherUnreachable

app = typer.Typer(
    help="Fuse several teacher models into one trustworthy soft target per input.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="Keys for a server that is not for everyone.", no_args_is_help=True)
app.add_typer(keys, name="key")


class Profile(StrEnum):
    """Which level of each axiom is required."""

    strict = "strict"
    paper = "paper"


class Budget(StrEnum):
    """How many cases an operator is asked."""

    quick = "quick"
    full = "full"
    soak = "soak"


class Dataset(StrEnum):
    """What the demo can run on."""

    digits = "digits"
    fashion_mnist = "fashion-mnist"


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer calls it
    if wanted:
        typer.echo(f"soft-targets {service.__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of every command."""


@app.command()
def serve(
    config: Annotated[Path, typer.Argument(help="The YAML file.", metavar="CONFIG")],
    *,
    reload: Annotated[
        bool, typer.Option("--reload", help="Load ensembles anew when the file changes.")
    ] = False,
) -> None:
    """Serve the ensembles of a configuration over HTTP."""
    # Before the imports, which take a second. uvicorn drains on these, closes the application, and then
    # raises them again for whoever handled them before it. Not by an exception: it would come up in whatever
    # runs at that moment, and imports and the event loop's first steps have swallowed it.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

    from service import telemetry  # noqa: PLC0415 - a command loads what it needs
    from service.api import banner  # noqa: PLC0415
    from service.api.app import create_app  # noqa: PLC0415
    from service.api.draining import Server  # noqa: PLC0415
    from service.api.serving import config_of, port_of  # noqa: PLC0415
    from service.auth import open_access  # noqa: PLC0415
    from service.config import load  # noqa: PLC0415
    from service.engine.changes import Alone  # noqa: PLC0415
    from service.engine.engine import Engine  # noqa: PLC0415
    from service.engine.watching import watch  # noqa: PLC0415
    from service.listening import check_tls, open_listeners  # noqa: PLC0415
    from service.workers.parent import Parent  # noqa: PLC0415

    telemetry.configure()
    try:
        settings = load(config)
        access = open_access(settings.auth)
        for warning in access.warnings:
            telemetry.logger("auth").warning(warning)
        encrypted = check_tls(settings)
        listeners = open_listeners(settings, access)
        url = _url(listeners[0], encrypted=encrypted)
        if (port := port_of(listeners)) is not None:
            telemetry.logger("api").info("metrics", port=port)
        if not settings.alone:
            parent = Parent(config.resolve(), settings, listeners)

            def started(ensembles: banner.Served, workers: int) -> None:
                banner.announce(url, ensembles, settings, access, workers=workers)
                _tell(url)

            code = asyncio.run(parent.run(started, watched=reload))
            raise typer.Exit(code)
        engine = Engine.open(settings, telemetry.open_spans())
    except ConfigError as exc:
        raise _fail(str(exc), code=3 if isinstance(exc, TeacherUnreachable) else 2) from None
    source = partial(load, config)
    banner.announce(url, banner.served(engine), settings, access)
    _tell(url)
    beside = partial(watch, config.resolve(), source, settings, engine.reload) if reload else None
    changes = Alone(engine, source)
    app = create_app(engine, settings, access, changes, beside, metrics_port=port_of(listeners))
    Server(config_of(app, settings, drain=app.state.drain), engine).run(sockets=listeners)


@app.command()
def check(
    config: Annotated[Path, typer.Argument(help="The YAML file.", metavar="CONFIG")],
    *,
    plan: Annotated[
        int | None, typer.Option(metavar="ROWS", help="Say what a training on so many rows costs.", min=1)
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of that training.", min=1)] = 1,
    trainers: Annotated[int, typer.Option(help="How many ask for all of its rows.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Look at all that serving needs: files, devices, operators, plans, memory, keys, ports and cache."""
    from service import telemetry  # noqa: PLC0415
    from service.checking import Planned, check_config, document, look_around, shown  # noqa: PLC0415
    from service.config import load  # noqa: PLC0415

    telemetry.configure()
    try:
        settings = load(config)
        checked = check_config(config, Planned(plan, epochs, trainers) if plan else None)
        around = look_around(settings, checked)
    except ConfigError as exc:
        raise _fail(str(exc), code=2) from None
    typer.echo(json.dumps(document(checked, around), indent=2) if as_json else shown(checked, around))
    findings = [*around.findings, *(finding for one in checked for finding in one.findings)]
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(1)


# Options of certify that say what a configuration, or a witness, says itself.
OF_A_QUESTION = ("profile", "teachers", "classes", "floor", "budget", "seed")
OF_AN_OPERATOR = ("param", "profile", "teachers", "classes", "floor", "replay")


@app.command("certify")
def certify_command(
    context: typer.Context,
    config: Annotated[Path | None, typer.Argument(help="The YAML file.", metavar="[CONFIG]")] = None,
    *,
    operator: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="A name, or module:factory, instead of a configuration."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A parameter of the operator; repeatable.")
    ] = None,
    profile: Annotated[Profile, typer.Option(help="Which levels are required.")] = Profile.strict,
    teachers: Annotated[int, typer.Option(help="K.", min=1)] = 3,
    classes: Annotated[int, typer.Option(help="C.", min=2)] = 10,
    floor: Annotated[float, typer.Option(help="Epsilon, where the operator needs a floor.")] = 1e-6,
    budget: Annotated[Budget, typer.Option(help="How many cases.")] = Budget.quick,
    seed: Annotated[int, typer.Option(help="Of all cases.", min=0)] = 0,
    replay: Annotated[
        str | None,
        typer.Option(
            metavar="WITNESS",
            help="Ask a witness's question again: its JSON, @FILE, or - for stdin; or all of a certificate.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check the five axioms on an operator, or on every recipe of a configuration.

    Exit code 0: admitted; 1: refused; 2: it could not be judged.
    """
    from service import certification, telemetry  # noqa: PLC0415

    telemetry.configure()
    if (config is None) == (operator is None):
        raise _fail("certify takes a CONFIG or an --operator, one of the two", code=2)
    if config is not None:
        _refuse_options(
            context, OF_AN_OPERATOR, "is for --operator: a configuration says it itself, of each recipe"
        )
    elif replay is not None:
        _refuse_options(context, OF_A_QUESTION, "is not for --replay: a witness has its question with it")
    asked = {"budget": budget.value, "seed": seed}
    try:
        if config is not None:
            answers = list(certification.certify_config(config, **asked))
        else:
            spec = certification.spec_of(str(operator), param or [])
            if replay is not None:
                answers = certification.replay_witnesses(spec, replay)
            else:
                shape = {"profile": profile.value, "teachers": teachers, "classes": classes, "floor": floor}
                answers = [certification.certify_operator(spec, **shape, **asked)]
    except ConfigError as exc:
        raise _fail(str(exc), code=2) from None
    if as_json:
        documents = [one.document for one in answers]
        several = config is not None or len(documents) > 1
        typer.echo(json.dumps(documents if several else documents[0], allow_nan=False))
    else:
        typer.echo("\n\n".join(one.text for one in answers))
    raise typer.Exit(0 if all(one.admitted for one in answers) else 1)


app.command()(bulk.prefill)
app.command("import")(bulk.import_export)
app.command()(bulk.verify)


@app.command()
def demo(
    *,
    dataset: Annotated[Dataset, typer.Option(help="What to learn.")] = Dataset.digits,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("build/demo"),
) -> None:
    """Train teachers, serve them, and distil a student from them over HTTP: the main job on real data."""
    try:
        from service.demo import run  # noqa: PLC0415 - a command loads what it needs
        from service.demo.data import MissingDataset  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        text = f"the demo needs {exc.name}: pip install 'soft-targets[cpu,demo]'"
        raise _fail(text, code=3) from None
    try:
        run.main(dataset.value, out)
    except ServiceError as exc:
        raise _fail(str(exc), code=3 if isinstance(exc, MissingDataset) else 2) from None


@keys.command()
def new(
    *,
    keys_file: Annotated[Path, typer.Option(help="Where its hash is kept; made if it is not there.")],
    scope: Annotated[list[str], typer.Option(help="targets:read, recipes:write or admin; may stand often.")],
    name: Annotated[str | None, typer.Option(help="What to call it; key-1, key-2 ... by default.")] = None,
) -> None:
    """Make a key, and print it: this once."""
    from service.auth import new_key  # noqa: PLC0415 - a command loads what it needs

    try:
        secret, key = new_key(keys_file, scope, name=name)
    except ConfigError as exc:
        raise _fail(str(exc), code=2) from None
    typer.echo(secret)
    typer.echo(
        f"{keys_file}: {key.name} may {', '.join(key.scopes)}. Only the key's hash is kept: this is the only "
        "time it is shown. A running server knows it after a restart.",
        err=True,
    )


def _url(listener: socket.socket, *, encrypted: bool) -> str:
    scheme, (host, port) = "https" if encrypted else "http", listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _tell(url: str) -> None:
    """Say where the server listens: the one line on standard output."""
    typer.echo(f"soft-targets {service.__version__} listening on {url}")
    sys.stdout.flush()


def _refuse_options(context: typer.Context, names: Sequence[str], why: str) -> None:
    """Refuse an option that would be ignored."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise _fail(f"--{name} {why}; leave it out", code=2)


def _fail(message: str, *, code: int) -> typer.Exit:
    typer.echo(f"soft-targets: {message}", err=True)
    return typer.Exit(code)


def main() -> None:
    """The console script."""
    app()
