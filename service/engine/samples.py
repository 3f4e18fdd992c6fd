"""Example rows that an ensemble is shown with."""

import zipfile
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import numpy as np

from service.errors import ConfigError
from service.model import Array
from soft_targets.wire import InputError, TensorSpec, cast, check_shape

MOST_ROWS = 32
MOST_BYTES = 1 << 20


def read_samples(path: Path, inputs: Mapping[str, TensorSpec], *, ensemble: str) -> dict[str, Array]:
    """The first rows of an npz that has one array per input; what else is in it is not looked at.

    Args:
        path: of the file.
        inputs: of the ensemble.
        ensemble: its name.

    Returns:
        Input to array ``[B, ...]``, cast; as many rows as fit ``MOST_ROWS`` and ``MOST_BYTES``, one at least.

    Raises:
        ConfigError: they cannot be read, do not fit the inputs, or are not finite (they are shown as JSON).
    """
    where = f"ensembles.{ensemble}.samples: {path}"
    try:
        given = _arrays(path, inputs.keys())
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as exc:
        raise ConfigError(f"{where}: cannot be read: {exc}") from None
    counts = {name: len(values) if values.ndim else 0 for name, values in given.items()}
    if len(set(counts.values())) > 1 or 0 in counts.values():
        raise ConfigError(f"{where}: every input needs as many rows, one at least; it has {counts}")
    rows = {name: _cast(values[:MOST_ROWS], inputs[name], name, where) for name, values in given.items()}
    row_bytes = sum(np.asarray(given[name][:1]).nbytes for name in rows)
    most = max(1, MOST_BYTES // max(1, row_bytes))
    return {name: values[:most] for name, values in rows.items()}


def _arrays(path: Path, names: AbstractSet[str]) -> dict[str, Array]:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError(f"it is no npz; save one with numpy.savez(path, {next(iter(names))}=...)")  # noqa: TRY004
    with loaded as archive:
        if missing := sorted(names - set(archive.files)):
            raise ValueError(f"it has no array {', '.join(missing)}, but {', '.join(archive.files)}")
        return {name: archive[name] for name in names}


def _cast(values: Array, spec: TensorSpec, name: str, where: str) -> Array:
    try:
        rows = cast(values, spec.dtype, name=name)
        check_shape(rows, spec, name)
    except InputError as exc:
        raise ConfigError(f"{where}: {exc}") from None
    if rows.dtype.kind == "f" and not np.isfinite(rows).all():
        raise ConfigError(f"{where}: input {name!r} holds NaN or infinity; choose other rows to show")
    return rows
