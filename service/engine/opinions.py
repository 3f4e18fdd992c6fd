"""What each teacher says of rows, beside what is made of it."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from service.cache import Store
from service.engine.batches import Answer, answers_of, asked_alike, opinions_of
from service.engine.ensemble import Effective, Ensemble
from service.engine.groups import non_finite
from service.keys import cache_key
from service.model import Array
from service.plans.stages import as_kept, enter
from soft_targets.wire import row_digests


class Said(NamedTuple):
    """The opinions of rows, whatever plan answers them otherwise.

    Attributes:
        opinions: float32 ``[K, B, C]``, calibrated and aligned log-probabilities at temperature 1.
        softened: float32 ``[K, B, C]``, what is fused: at T, and floored where the operator needs it.
        heard: ``[K, B]``, whether the teacher said anything of the row.
        answers: each row's target, or why it has none.
    """

    opinions: Array
    softened: Array
    heard: Array
    answers: list[Answer]


async def say(cache: Store, ensemble: Ensemble, effective: Effective, inputs: Mapping[str, Array]) -> Said:
    """Ask every teacher, those of weight 0 too, or recall what was kept of them; nothing is cached.

    Args:
        cache: may hold opinions.
        ensemble: whose teachers answer.
        effective: the recipe as asked for.
        inputs: ensemble input to array ``[B, ...]``, cast.
    """
    kept: Sequence[bytes | None] = [None] * len(next(iter(inputs.values())))
    if ensemble.keep is not None and ensemble.config.not_cached is None:
        fingerprint = ensemble.opinions_fingerprint
        digests = await asyncio.to_thread(row_digests, inputs, ensemble.inputs)
        kept = await cache.get_many([cache_key(fingerprint, digest) for digest in digests])
    return await asyncio.to_thread(_say, ensemble, effective, inputs, kept)


def _say(
    ensemble: Ensemble, effective: Effective, inputs: Mapping[str, Array], kept: Sequence[bytes | None]
) -> Said:
    shape = (len(ensemble.members), len(kept), len(ensemble.classes))
    said = Said(np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.zeros(shape[:2], dtype=bool), [])
    said.answers.extend(Answer(None, None) for _ in kept)
    failures = non_finite(ensemble, inputs, range(len(kept)))
    for row, failure in failures.items():
        said.answers[row] = Answer(None, failure)
    recalled = [row for row, value in enumerate(kept) if value is not None and row not in failures]
    asked = [row for row, value in enumerate(kept) if value is None and row not in failures]
    if recalled:
        opinions = opinions_of(ensemble, b"".join(kept[row] or b"" for row in recalled))
        heard = np.ones(opinions.shape[:2], dtype=bool)
        _fuse(said, ensemble, effective, recalled, (opinions, heard, {}))
    most = ensemble.config.batching.max_rows
    for start in range(0, len(asked), most):
        rows = asked[start : start + most]
        part = {name: values[rows] for name, values in inputs.items()}
        everyone = np.ones((len(ensemble.members), len(rows)), dtype=np.float32)
        opinions, heard, silent, _ = ensemble.plans.apart.opinions(part, everyone)
        if ensemble.keep is not None:
            opinions = as_kept(opinions, ensemble.keep)
        _fuse(said, ensemble, effective, rows, (opinions, heard, silent))
    return said


def _fuse(
    said: Said,
    ensemble: Ensemble,
    effective: Effective,
    rows: list[int],
    heard: tuple[Array, Array, Mapping[int, str]],
) -> None:
    """Fill in rows whose opinions are known."""
    opinions, valid, failures = heard
    temperature, weights = asked_alike(effective, len(rows))
    outcome = ensemble.plans.apart.fuse(opinions, valid, temperature, weights, effective.pair)
    values = effective.layout.pack(
        outcome.log_probs,
        outcome.indices,
        outcome.tail_log_mass,
        entropy=outcome.entropy,
        divergence=outcome.divergence,
    )
    said.opinions[:, rows], said.heard[:, rows] = opinions, valid
    said.softened[:, rows] = enter(opinions, temperature, effective.pair)
    for row, answer in zip(
        rows, answers_of(ensemble, values, weights, outcome._replace(failures=failures)), strict=True
    ):
        said.answers[row] = answer
