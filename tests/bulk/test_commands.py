"""The commands as they are typed: their exit codes, and what is wrong usage."""

import logging
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import structlog
import typer
from bulk_runs import prefill, rows, typed
from typer.testing import CliRunner

from service import cli
from service.bulk.values import schema
from soft_targets.wire import Layout

ROOT = Path(__file__).parents[2]

MEMORY = "memory://?max_bytes=1MiB"


@pytest.fixture(autouse=True)
def logging_as_it_was():
    """The commands log to the standard error that they find, which here is closed after each."""
    handlers = logging.getLogger().handlers[:]
    yield
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


def invoked(*arguments):
    return CliRunner().invoke(cli.app, [*map(str, arguments)])


def test_all_three_from_the_command_line(configured, saved, tmp_path):
    config, memory = configured(), configured(MEMORY, name="m.yaml")
    data, out = saved(rows(200)), tmp_path / "out"
    code, said, noted = typed("prefill", memory, data, "--out", out, "--rows-per-file", 150, "--top-k", 2)
    assert (code, "Traceback" in noted) == (0, False)
    assert said.startswith(f"{out}: 200 rows in 2 files, 0 failed; 0 were there before; ")
    code, said, _ = typed("import", config, out)
    assert code == 0
    assert said.startswith(f"200 rows of {out}: 0 were in the cache, 200 are now, 0 have no target")
    code, said, _ = typed("verify", config, out, "--sample", 20)
    assert code == 0
    assert said.startswith("20 of 20 rows computed again and compared, 0 of 20 are wrong; ")
    code, said, _ = typed("prefill", config, data, "--ensemble", "toy", "--recipe", "default", "--top-k", 2)
    assert code == 0
    assert said.startswith("200 rows: 200 were in the cache, 0 are now, 0 failed; ")


def test_ray_is_not_there_yet(configured, saved):
    done = invoked("prefill", configured(), saved(rows(3)), "--engine", "ray")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "soft-targets: --engine ray is not yet supported; leave it out, or say local\n"
    assert invoked("prefill", configured(), saved(rows(3)), "--engine", "local").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ensemble", "tyo"], "no ensemble 'tyo'; did you mean 'toy'?"),
        (["--recipe", "defualt"], "ensemble 'toy' has no recipe 'defualt'; did you mean 'default'?"),
        (["--temperature", "0"], "temperature='0': give a number from 0.1 to 100"),
        (["--weights", "one"], "weights='one': give teacher:weight"),
        (["--weights", "on:1"], "weights: unknown teacher 'on'; did you mean 'one'?"),
        (["--top-k", "5"], "top_k is 5; this ensemble has 4 classes"),
        (["--dtype", "float64"], "dtype='float64': give float32 or float16"),
        (["--rows-per-file", "10"], "--rows-per-file is of an export: it needs --out"),
    ],
)
def test_what_is_asked_wrongly(configured, saved, arguments, message):
    done = invoked("prefill", configured(), saved(rows(3)), *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1].startswith(f"soft-targets: {message}")


@pytest.mark.parametrize("command", ["prefill", "import", "verify"])
def test_a_configuration_that_cannot_be_used(tmp_path, command):
    more = {"prefill": ["x"], "import": [tmp_path], "verify": [tmp_path, "--sample", 3]}[command]
    done = invoked(command, tmp_path / "none.yaml", *more)
    assert done.exit_code == 2
    assert "none.yaml: cannot be read: No such file or directory" in done.stderr


@pytest.mark.parametrize(
    "arguments", ["verify", "verify c d", "verify c d --sample 0", "import", "prefill c"]
)
def test_what_is_left_out(arguments):
    assert invoked(*arguments.split()).exit_code == 2


def test_an_ensemble_has_to_be_named_where_there_are_several(configured, saved):
    config = configured()
    text = config.read_text()
    config.write_text(text + text.split("ensembles:\n")[1].replace("toy:", "more:"))
    data = saved(rows(3))
    stopped = prefill(config, data)
    assert stopped.code == 2
    assert stopped.notes[0] == "there are several ensembles: name one as --ensemble, of toy, more"
    assert prefill(config, data, ensemble="more").code == 0


def test_the_help_names_them():
    text = invoked("--help").stdout
    assert all(f" {name} " in text for name in ("prefill", "import", "verify"))


def test_somebody_who_watches_sees_a_bar(configured, saved):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "prefill", configured(), saved(rows(2000))],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "150"},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert b"2000/2000" in seen
    assert "━" in seen.decode()


def test_the_guide_names_every_option_and_no_other():
    guide = (ROOT / "docs" / "prefill.md").read_text()
    named = set(re.findall(r"--[a-z][a-z-]+", guide))
    commands = {
        name: {option for one in command.params for option in one.opts if option.startswith("--")}
        for name, command in typer.main.get_command(cli.app).commands.items()
    }
    assert named == commands["prefill"] | commands["import"] | commands["verify"]


def test_the_guide_names_the_columns_of_an_export():
    guide = (ROOT / "docs" / "prefill.md").read_text()
    table = guide.split("| column | |")[1].split("\n\n")[0]
    layouts = [Layout(4), Layout(4, top_k=2, diagnostics=True)]
    columns = {name for layout in layouts for name in schema(layout, pa.uint64()).names}
    assert set(re.findall(r"`(\w+)`", table)) == columns
