"""``manifest.json`` of an export: what it is of, and which files are whole."""

import json
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Self, cast

from blake3 import blake3
from pydantic import BaseModel, ConfigDict, ValidationError

import service
from service.bulk.errors import ExportRefused
from service.engine.ensemble import Effective, Ensemble
from service.keys import canonical_json, fingerprint
from service.teachers.onnx import runtime

NAME = "manifest.json"
FORMAT: Literal["soft-targets-export-1"] = "soft-targets-export-1"
SHOWN = 6


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataFile(_Document):
    """A file of the data."""

    name: str
    rows: int


class Data(_Document):
    """What was labelled: where it was, and how many rows each of its files had."""

    path: str
    rows: int
    files: tuple[DataFile, ...]


class PartFile(_Document):
    """A file of the export.

    Attributes:
        name: in the export's folder.
        first_row: its place in the data.
        rows: in it.
        failed: of them, those without a target.
        degraded: of them, those that some teachers said nothing of.
        unkept: of them, those that no cache may hold, degraded ones among them.
        size_bytes: of the file.
        blake3: of the file.
        rows_blake3: of its rows' ids and digests, whoever wrote them into whatever file.
    """

    name: str
    first_row: int
    rows: int
    failed: int
    degraded: int
    unkept: int
    size_bytes: int
    blake3: str
    rows_blake3: str

    @property
    def stop(self) -> int:
        """The place behind its last row."""
        return self.first_row + self.rows


class Manifest(_Document):
    """All of it.

    Attributes:
        format: of the export.
        complete: whether all rows of the data are in it.
        ensemble: its name.
        recipe: its name.
        fingerprint: what the targets are a function of, besides the input.
        temperature: of the targets.
        operator: with its parameters.
        certificate: of the operator.
        violations: the axioms that it was let to violate.
        classes: of the targets, in order.
        classes_digest: of them.
        overrides: of the recipe.
        made_of: what is known of the fingerprint, by name.
        data: that was labelled.
        row_id: the type of the rows' ids.
        rows_per_file: of every file but the last.
        files: those that are whole.
    """

    format: Literal["soft-targets-export-1"]
    complete: bool
    ensemble: str
    recipe: str
    fingerprint: str
    temperature: float
    operator: dict[str, Any]
    certificate: str
    violations: str
    classes: tuple[str, ...]
    classes_digest: str
    overrides: dict[str, Any]
    made_of: dict[str, Any]
    data: Data
    row_id: Literal["uint64", "string"]
    rows_per_file: int
    files: tuple[PartFile, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Rows of the files that are whole, by what became of them."""
        return {
            name: sum(getattr(file, name) for file in self.files)
            for name in ("rows", "failed", "degraded", "unkept")
        }

    def write(self, folder: Path) -> None:
        """Put it in the place of the one that is there, at once."""
        document = {**self.model_dump(mode="json"), "counts": self.counts}
        text = json.dumps({**document, "digest": fingerprint(document)}, indent=1, ensure_ascii=False)
        written = folder / f"{NAME}.partial"
        with written.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(written, folder / NAME)  # noqa: PTH105 - the name that everybody knows for it
        sync(folder)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest in a folder.

        Raises:
            FileNotFoundError: there is none.
            ExportRefused: it cannot be read, is of another format, or was changed.
        """
        path = folder / NAME
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            raise
        except (OSError, ValueError, RecursionError) as exc:
            raise ExportRefused(f"{path} is no manifest, or was cut: {exc}") from None
        said = document.get("format") if isinstance(document, dict) else None
        if said != FORMAT:
            raise ExportRefused(f"{path} has format {said!r}; this version reads {FORMAT!r}")
        digest = document.pop("digest", None)
        try:
            changed = fingerprint(document) != digest
            document.pop("counts", None)  # they are the files' own
            manifest = cls.model_validate(document)
        except ValidationError as exc:
            where = ".".join(map(str, exc.errors()[0]["loc"]))
            raise ExportRefused(f"{path}: {where}: {exc.errors()[0]['msg']}") from None
        except ValueError as exc:
            raise ExportRefused(f"{path} is no manifest: {exc}") from None
        if changed:
            raise ExportRefused(f"{path} was changed since it was written: its digest is of other content")
        return manifest


def made_of(ensemble: Ensemble, effective: Effective) -> dict[str, Any]:
    """What is known of a fingerprint, by name, so that it can be said what differs."""
    recipe = {field.name: getattr(effective.recipe, field.name) for field in fields(effective.recipe)}
    names = [member.teacher.name for member in ensemble.members]
    recipe |= {
        "operator": effective.recipe.operator.as_dict(),
        "weights": dict(zip(names, effective.recipe.weights, strict=True)),
    }
    found = {
        "recipe": recipe,
        "teachers": {
            member.teacher.name: {
                "digest": member.teacher.digest,
                "inputs": dict(member.feeds),
                "output": member.output,
                "kind": member.kind,
                "temperature": member.temperature,
                "classes": fingerprint(section.classes),
                "missing": section.missing,
                "device": member.teacher.device.numeric_mode,
            }
            for member, section in zip(ensemble.members, ensemble.config.teachers, strict=True)
        },
        "order of teachers": names,
        "classes": ensemble.classes_digest,
        "inputs": {name: str(spec) for name, spec in ensemble.inputs.items()},
        "allow_nan": sorted(ensemble.allow_nan),
        "plan": ensemble.plans.name_of(effective.pair),
        "opinions": ensemble.keep,
        "versions": {"soft-targets": service.__version__, "runtime": runtime()},
    }
    return cast("dict[str, Any]", json.loads(canonical_json(found)))  # as it is read back


def refuse_foreign(manifest: Manifest, folder: Path, ensemble: Ensemble, effective: Effective) -> None:
    """Refuse an export whose targets are not this recipe's.

    Raises:
        ExportRefused: what differs, as far as it is known.
    """
    if manifest.fingerprint == effective.fingerprint:
        return
    known = differences(
        manifest.made_of, made_of(ensemble, effective), there="in the export", here="in the configuration"
    )
    raise ExportRefused(
        f"{folder} holds targets of another recipe than {effective.name!r} of {ensemble.name!r}: "
        + (known or "all that is known is the same; the code of the service or of an operator is another")
    )


def differences(one: Mapping[str, Any], other: Mapping[str, Any], *, there: str, here: str) -> str:
    """What differs between two trees of values, for people.

    Args:
        one: the first.
        other: the second.
        there: where the first is.
        here: where the second is.
    """
    left, right = dict(_leaves(one)), dict(_leaves(other))
    found = [
        f"{name} is {_shown(left, name)} {there} and {_shown(right, name)} {here}"
        for name in {**left, **right}
        if (name in left, left.get(name)) != (name in right, right.get(name))
    ]
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _leaves(tree: Any, path: str = "") -> list[tuple[str, Any]]:
    if not isinstance(tree, Mapping):
        return [(path, tree)]
    return [leaf for key, one in tree.items() for leaf in _leaves(one, f"{path}.{key}" if path else str(key))]


def _shown(leaves: Mapping[str, Any], name: str) -> str:
    if name not in leaves:
        return "absent"
    text = json.dumps(leaves[name], ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:24]}…"  # noqa: PLR2004 - characters


def file_digest(path: Path) -> str:
    """BLAKE3-256 of a file's bytes, in hexadecimal."""
    return blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()


def sync(folder: Path) -> None:
    """Have the names in a folder survive a crash of the machine."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
