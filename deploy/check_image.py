"""Run the Dockerfile's own steps without Docker, and try what comes of them as a container would be run.

sudo python3 deploy/check_image.py [--runtime cpu] [--work FOLDER] [--bind PATH ...]

The base is a Debian that debootstrap makes: the release is the image's, but its Python is Debian's (3.11 on
bookworm, where the image has 3.12), and the steps run in a chroot. Then the result serves deploy/ensembles as
the image's user, without capabilities, on a read-only root, in namespaces of its own; it is asked for its
health by the image's own check, and for a row. Variables PIP_* and *_proxy are handed on, and ``--bind``
shows a folder of this machine to the steps: for an index or authorities of one's own. Not tried are the
layers, the base image itself, and Docker.

It needs root, debootstrap, iproute2 and util-linux; some GB; and minutes. 0: all holds.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

from dockerfile import Stage, expand, ignored, parse, patterns_of, stages

ROOT = Path(__file__).parents[1]
PACKAGES = "ca-certificates,python3,python3-venv"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_S = 300.0
DRAIN_S = 60.0
VOLUMES = ("etc/soft-targets", "var/lib/soft-targets")
OWN = "/var/cache/soft-targets"  # the image's user owns it, and nothing is mounted there
FORBIDDEN = ("gcc", "cc", "c++", "make", "pip", "pip3")
INSTALLED = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()))"


class Image(NamedTuple):
    """What a build leaves."""

    root: Path
    environment: Mapping[str, str]
    user: str
    command: Sequence[str]
    health: Sequence[str]


def run(*command: str | Path, **options: object) -> None:
    """Run a command that has to succeed, and say which."""
    print("+", " ".join(str(part) for part in command)[:200], flush=True)
    subprocess.run([str(part) for part in command], check=True, **options)  # type: ignore[call-overload]


def debian(base: Path, suite: str, mirror: str) -> None:
    """A clean Debian with Python where the image has it: as ``python`` with pip, under /usr/local."""
    if not (base / "bin").exists():
        run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, base, mirror)
    if not (base / "usr/local/bin/python").exists():
        run("chroot", base, "python3", "-m", "venv", "/usr/local")


class Build:
    """Runs stages, each in a copy of the base.

    Args:
        base: what FROM stands for.
        work: where the copies go.
        binds: folders of this machine that the steps see.
        arguments: of the build.
    """

    def __init__(self, base: Path, work: Path, binds: Sequence[str], arguments: Mapping[str, str]) -> None:
        self.base, self.work, self.binds, self.arguments = base, work, binds, arguments
        self.roots: dict[str, Path] = {}
        self.patterns = patterns_of((ROOT / ".dockerignore").read_text())

    def stage(self, place: int, stage: Stage) -> Image:  # noqa: C901 - an instruction, a case
        """Run a stage's steps."""
        root = self.work / f"stage-{place}"
        shutil.rmtree(root, ignore_errors=True)
        run("cp", "-a", self.base, root)
        self.roots[stage.name] = root
        environment, arguments, here = {"PATH": PATH}, dict[str, str](), "/"
        user, entry, command, health = "0:0", list[str](), list[str](), list[str]()
        for step in stage.steps:
            known = {**environment, **arguments}
            match step.keyword:
                case "ARG":
                    name, _, default = step.value.partition("=")
                    arguments[name] = self.arguments.get(name, default)
                case "ENV":
                    environment |= {name: expand(value, known) for name, value in step.pairs.items()}
                case "WORKDIR":
                    here = step.value
                    (root / here.lstrip("/")).mkdir(parents=True, exist_ok=True)
                case "COPY" if "from" in step.flags:
                    source, target = step.words
                    (root / target[1:]).parent.mkdir(parents=True, exist_ok=True)
                    run("cp", "-a", self.roots[step.flags["from"]] / source[1:], root / target[1:])
                case "COPY":
                    self.copy(step.words, root / here.lstrip("/"))
                case "RUN":
                    self.step(root, here, step.value, {**environment, **arguments})
                case "USER":
                    user = step.value
                case "ENTRYPOINT":
                    entry = step.words
                case "CMD":
                    command = step.words
                case "HEALTHCHECK":
                    health = json.loads(step.value.removeprefix("CMD").strip())
        return Image(root, environment, user, [*entry, *command], health)

    def copy(self, words: Sequence[str], into: Path) -> None:
        """What COPY takes from the context, which .dockerignore has cut."""
        *sources, target = words
        for name in sources:
            source = ROOT / name
            goal = into / target if source.is_dir() else into / target / name
            paths = [path for path in (source, *sorted(source.rglob("*"))) if path.is_file()]
            for path in paths:
                if ignored(str(path.relative_to(ROOT)), self.patterns):
                    continue
                place = goal / path.relative_to(source) if source.is_dir() else goal
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)

    def step(self, root: Path, here: str, line: str, environment: Mapping[str, str]) -> None:
        """A RUN, in a chroot with this machine's network."""
        print("+ RUN", line[:200], flush=True)
        shutil.copyfile("/etc/resolv.conf", root / "etc/resolv.conf")
        mounts = [
            "mount --make-rprivate /",
            f"mount -t proc proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
        ]
        made = [path for path in self.binds if not Path(f"{root}{path}").exists()]
        for path in self.binds:
            Path(f"{root}{path}").mkdir(parents=True, exist_ok=True)
            mounts += [f"mount --bind {path} {root}{path}"]
        handed = {
            name: value
            for name, value in os.environ.items()
            if name.startswith("PIP_") or name.lower().endswith("_proxy")
        }
        script = "; ".join([*mounts, f"exec chroot {root} sh -c 'cd {here}; eval \"$STEP\"'"])
        run(
            "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", script,
            env={**handed, **environment, "STEP": line},
        )  # fmt: skip
        for path in made:
            Path(f"{root}{path}").rmdir()


def main() -> int:
    """Build, and try it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runtime", default="cpu", choices=["cpu", "gpu"])
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "image")
    parser.add_argument("--suite", default="bookworm")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    parser.add_argument("--bind", action="append", default=[])
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.inside:
        return tried(Image(Path(asked.work), **json.loads(asked.inside)))
    if os.geteuid() or not shutil.which("debootstrap"):
        print("check_image needs root and debootstrap (apt-get install debootstrap)", file=sys.stderr)
        return 3
    asked.work.mkdir(parents=True, exist_ok=True)
    work = asked.work.resolve()
    debian(work / "base", asked.suite, asked.mirror)
    build = Build(work / "base", work, asked.bind, {"RUNTIME": asked.runtime})
    parts = stages(parse((ROOT / "Dockerfile").read_text()), {})
    image = [build.stage(place, stage) for place, stage in enumerate(parts)][-1]
    for name in (
        *VOLUMES,
        "ensembles",
        "tmp",
        "proc",
        "dev",
    ):  # where there will be something else, on the way
        (image.root / name).mkdir(exist_ok=True)
    said = json.dumps({key: value for key, value in image._asdict().items() if key != "root"})
    program = [sys.executable, __file__, "--work", str(image.root), "--inside", said]
    spaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]
    return subprocess.run([*spaces, *program], check=False).returncode


def tried(image: Image) -> int:
    """What is tried in the namespaces; says each thing, and 1 for the first that does not hold."""
    root = image.root
    for name in VOLUMES:  # a new volume takes the folder's owner
        volume = root.parent / "volumes" / name
        shutil.rmtree(volume, ignore_errors=True)
        volume.parent.mkdir(parents=True, exist_ok=True)
        run("cp", "-a", root / name, volume)
    run("mount", "--make-rprivate", "/")
    run("mount", "--bind", root, root)
    run("mount", "-o", "remount,bind,ro", root)
    run("mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "tmp")
    run("mount", "-t", "proc", "proc", root / "proc")
    run("mount", "--rbind", "/dev", root / "dev")
    run("mount", "--bind", "-o", "ro", ROOT / "deploy" / "ensembles", root / "ensembles")
    for name in VOLUMES:
        run("mount", "--bind", root.parent / "volumes" / name, root / name)
    run("ip", "link", "set", "lo", "up")
    environment = {**image.environment, "SOFT_TARGETS__AUTH__KEYS_FILE": "/etc/soft-targets/keys.jsonl"}

    def inside(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            confined(image, command), env=environment, capture_output=True, text=True, check=False
        )

    made = inside(
        "soft-targets", "key", "new", "--keys-file", "/etc/soft-targets/keys.jsonl", "--scope", "targets:read"
    )
    key = made.stdout.strip()
    unserved = inside(*image.health).returncode
    server = subprocess.Popen(confined(image, image.command), env=environment)
    try:
        holds("a key can be made in its volume", bool(key), made.stderr)
        holds("it is no root", inside("id", "-u").stdout.strip() == image.user.split(":")[0])
        refused = inside("touch", f"{OWN}/x").stderr
        holds("the root cannot be written", "Read-only file system" in refused, refused)
        other = differing(inside("python", "-c", INSTALLED).stdout.split())
        holds("everything is of the version in constraints.txt", not other, " ".join(other))
        found = [name for name in FORBIDDEN if inside("sh", "-c", f"command -v {name}").returncode == 0]
        holds("there is no compiler and no pip", not found, " ".join(found))
        holds("there is no pip for Python", inside("python", "-c", "import pip").returncode != 0)
        holds("there is no cache of pip", not (root / "root/.cache").exists())
        holds("its health check says no while nothing is served", unserved != 0)
        holds("its health check says yes", healthy(server, lambda: inside(*image.health).returncode == 0))
        status, _ = ask(None)
        holds("a row without a key is refused", status == HTTPStatus.UNAUTHORIZED, str(status))
        status, reply = ask(key)
        probabilities = reply.get("targets", [{}])[0].get("probabilities", {})
        holds("a row with a key is answered", round(sum(probabilities.values()), 4) == 1, f"{status} {reply}")
        kept = list((root / "var/lib/soft-targets").iterdir())
        holds("its certificates are kept in its volume", bool(kept))
        began = time.monotonic()
        server.terminate()
        holds("SIGTERM ends it with 0", server.wait(DRAIN_S) == 0, str(server.returncode))
        print(f"ended after {time.monotonic() - began:.1f} s")
    except AssertionError as exc:
        print(f"FAILED: {exc}", file=sys.stderr)
        return 1
    finally:
        server.kill()
    return 0


def differing(installed: Sequence[str]) -> list[str]:
    """Which distributions, as ``name==version``, constraints.txt does not have; ours need not be there."""

    def written(one: str) -> str:
        return one.lower().replace("_", "-").replace(".", "-")

    if not any(one.startswith("numpy==") for one in installed):
        return ["nothing is installed, or it cannot be listed"]
    known = {written(line) for line in (ROOT / "constraints.txt").read_text().split()}
    return sorted(one for one in installed if not one.startswith("soft-") and written(one) not in known)


def confined(image: Image, command: Sequence[str]) -> list[str]:
    """A command in the root, as the image's user, who can gain nothing."""
    return [
        "setpriv", "--no-new-privs", "--bounding-set=-all,+sys_chroot,+setuid,+setgid",
        "chroot", f"--userspec={image.user}", "--groups=", str(image.root), *command,
    ]  # fmt: skip


def healthy(server: subprocess.Popen[bytes], check: object) -> bool:
    """Whether the check says yes in time, of a server that has not ended."""
    assert callable(check)
    end = time.monotonic() + START_S
    while time.monotonic() < end and server.poll() is None:
        if check():
            return True
        time.sleep(1)
    return False


def ask(key: str | None) -> tuple[int, dict[str, list[dict[str, dict[str, float]]]]]:
    """The answer to a row."""
    request = urllib.request.Request(
        "http://127.0.0.1:8000/v1/ensembles/digits/soft-targets",
        data=json.dumps({"inputs": {"pixels": [[0.5] * 64]}}).encode(),
        headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as exc:
        return exc.code, {}


def holds(what: str, is_so: bool, said: str = "") -> None:  # noqa: FBT001 - reads as a sentence
    """Say that something holds.

    Raises:
        AssertionError: it does not.
    """
    if not is_so:
        raise AssertionError(f"{what}: no. {said}")
    print("ok:", what, flush=True)


if __name__ == "__main__":
    sys.exit(main())
