"""Writers of replies: Arrow as ``soft_targets.wire`` has it, and text."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from pydantic_core import to_json

from service.api.media import NDJSON, Reply
from service.engine.ensemble import Effective, Ensemble
from soft_targets.wire import ARROW, DIAGNOSTICS, FORMAT, MAX_BATCH_BYTES, Layout, ReplyWriter


class Writer(Protocol):
    """Writes one reply, a group of rows at a time; every method returns bytes to send."""

    @property
    def rows(self) -> int:
        """How many rows are in what was returned so far."""
        ...

    def group(
        self,
        row_ids: pa.Array,
        sources: Sequence[str],
        values: Sequence[bytes | None],
        errors: Sequence[tuple[str, str] | None],
        missing: Sequence[Sequence[str]],
    ) -> Iterator[bytes]:
        """Rows that are finished, in pieces of at most 4 MiB (or one row); as ``ReplyWriter.group``."""
        ...

    def close(self) -> bytes:
        """What tells a whole reply from a cut one."""
        ...


def writer_of(reply: Reply, ensemble: Ensemble, effective: Effective, row_id_type: pa.DataType) -> Writer:
    """What writes a reply as the client accepts it."""
    if reply.media == ARROW:
        return ReplyWriter(
            effective.layout, row_id_type=row_id_type, metadata=effective.metadata, codec=reply.codec
        )
    return JsonWriter(ensemble, effective, lines=reply.media == NDJSON)


class JsonWriter:
    """Writes a reply as one JSON document, or as a document a line.

    A document comes in one piece where it is no larger than a piece may be; lines come as they are finished,
    behind one that says what they are and before one that says that they are all.

    Args:
        ensemble: whose classes are named.
        effective: the recipe as asked for.
        lines: whether every row is a document.

    Attributes:
        rows: written so far.
        failed: how many of them were errors.
    """

    def __init__(self, ensemble: Ensemble, effective: Effective, *, lines: bool) -> None:
        self.rows = 0
        self.failed = 0
        self._classes = ensemble.classes
        self._layout = effective.layout
        self._lines = lines
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        said = _said(ensemble, effective)
        self._keep(_line({"format": FORMAT, **said}) if lines else to_json(said)[:-1] + b',"targets":[')

    def group(
        self,
        row_ids: pa.Array,
        sources: Sequence[str],
        values: Sequence[bytes | None],
        errors: Sequence[tuple[str, str] | None],
        missing: Sequence[Sequence[str]],
    ) -> Iterator[bytes]:
        """Rows that are finished, as of ``Writer.group``; of a document, what fills no piece is kept."""
        for row_id, source, value, error, names in zip(
            row_ids.to_pylist(), sources, values, errors, missing, strict=True
        ):
            target = _target(self._classes, self._layout, row_id, source, value, error, names)
            text = _line(target) if self._lines else b"," * (self.rows > 0) + to_json(target)
            if self._kept and self._kept_bytes + len(text) > MAX_BATCH_BYTES:
                yield self._taken()
            self._keep(text)
            self.rows += 1
            self.failed += error is not None
        if self._lines:
            yield self._taken()

    def close(self) -> bytes:
        """What is left, and the end."""
        self._keep(
            _line({"rows": self.rows, "failed": self.failed, "complete": True}) if self._lines else b"]}"
        )
        return self._taken()

    def _keep(self, text: bytes) -> None:
        self._kept.append(text)
        self._kept_bytes += len(text)

    def _taken(self) -> bytes:
        """What was kept, which is kept no longer."""
        kept, self._kept, self._kept_bytes = self._kept, [], 0
        return b"".join(kept)


def _line(document: dict[str, Any]) -> bytes:
    return to_json(document) + b"\n"


def _said(ensemble: Ensemble, effective: Effective) -> dict[str, Any]:
    """What a reply says of itself."""
    return {
        "ensemble": ensemble.name,
        "recipe": effective.name,
        "fingerprint": effective.fingerprint,
        "temperature": effective.recipe.temperature,
        "certificate": effective.certificate.id,
        "violations": effective.certificate.violations,
    }


def _target(  # noqa: PLR0917 - a row's columns
    classes: Sequence[str],
    layout: Layout,
    row_id: int | str,
    source: str,
    value: bytes | None,
    error: tuple[str, str] | None,
    missing: Sequence[str],
) -> dict[str, Any]:
    said: dict[str, Any] = {"row_id": row_id, "source": source}
    if error is not None:
        said["error_code"], said["error"] = error
    if value is not None:
        said |= distribution(classes, layout, value)
    return said | {"missing_teachers": list(missing)} if missing else said


def distribution(classes: Sequence[str], layout: Layout, value: bytes) -> dict[str, Any]:
    """A target's value as probabilities by class, with its tail where it is sparse, and its diagnostics."""
    columns = {name: column[0] for name, column in layout.unpack(value).items()}
    kept = [classes[index] for index in columns["indices"]] if "indices" in columns else classes
    probabilities = np.exp(columns["log_probs"].astype(np.float64)).tolist()
    target: dict[str, Any] = {"probabilities": dict(zip(kept, probabilities, strict=True))}
    if "tail_log_mass" in columns:
        target["tail"] = float(np.exp(columns["tail_log_mass"].astype(np.float64)))
    return target | {name: float(columns[name]) for name in DIAGNOSTICS if name in columns}
