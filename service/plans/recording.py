"""An ensemble as one ONNX graph: the teachers inlined, the stages and the operator recorded behind them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import ndonnx as ndx
import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter
import spox
import spox.opset.ai.onnx.v21 as onnx_ops
from spox import Var, _future

from operators.simplex import weighted_logsumexp
from service.errors import CannotRecord
from service.plans import heads, primitives
from service.plans.base import Pair, sampled_rows
from service.plans.member import Member
from service.plans.stages import (
    LOG_SMALLEST,
    NEGATIVE_TOLERANCE,
    SUM_TOLERANCE,
    diagnosed,
    says_the_same,
)
from service.teachers.onnx import OnnxTeacher
from soft_targets.wire import TensorSpec

OPSET = 21
Symbol = Any


def inputs_of(name: str) -> str:
    """What an ensemble's input is called in the graph, where other things have names too."""
    return f"input.{name}"


class Source(NamedTuple):
    """A teacher ready to be inlined.

    Attributes:
        member: its place in the ensemble.
        teacher: its file.
        model: at opset 21, without local functions, shapes inferred.
        changed: whether that took more than reading the file.
    """

    member: Member
    teacher: OnnxTeacher
    model: onnx.ModelProto
    changed: bool


def source(member: Member) -> Source:
    """A teacher's model as it can be inlined.

    Raises:
        CannotRecord: it is no file, or cannot be converted.
    """
    name = member.teacher.name
    if not isinstance(member.teacher, OnnxTeacher):
        raise CannotRecord(f"teacher {name!r} answers from elsewhere")
    model = member.teacher.model.load()
    opset = next((one.version for one in model.opset_import if one.domain in {"", "ai.onnx"}), OPSET)
    changed = bool(model.functions) or opset != OPSET
    try:
        if model.functions:
            model = onnx.inliner.inline_local_functions(model)
        if opset != OPSET:
            model = onnx.version_converter.convert_version(model, OPSET)
        model = onnx.shape_inference.infer_shapes(model)
    except Exception as exc:  # noqa: BLE001 - the converter's errors have no common root
        raise CannotRecord(
            f"teacher {name!r} cannot be converted from opset {opset} to {OPSET}: {_first_line(exc)}"
        ) from None
    return Source(member, member.teacher, model, changed)


def fused(sources: Sequence[Source], inputs: Mapping[str, TensorSpec], pair: Pair) -> bytes:
    """Rows in, targets out.

    Inputs: ``input.{name}`` as the ensemble's, ``temperature[B]``, ``weights[K, B]``, and where sparse
    ``k[1]``. Outputs: ``log_probs``, ``finite[B]``, ``valid[K, B]``, ``sample[K + 1, n, C]`` as in
    ``Outcome``, where sparse ``indices``, ``tail``, and with diagnostics ``entropy[B]``, ``divergence[B]``.

    Raises:
        CannotRecord: the operator or a teacher does not record.
    """
    with _recording("the operator or a teacher"):
        given = _arguments(inputs)
        temperature, weights = _argument(("rows",)), _argument((len(sources), "rows"))
        softened, valid = [], []
        for one in sources:
            log_probs, sound = _softened(one, given, ndx.asarray(temperature))
            softened.append(log_probs)
            valid.append(sound)
        outputs, k = _fusion(softened, ndx.asarray(weights), pair)
        outputs["valid"] = ndx.stack(valid)
        named = {inputs_of(name): var for name, var in given.items()}
        return _built({**named, "temperature": temperature, "weights": weights, **k}, outputs)


def teachers(sources: Sequence[Source], inputs: Mapping[str, TensorSpec]) -> bytes:
    """Rows in, ``opinions[K, B, C]`` and ``valid[K, B]`` out.

    Raises:
        CannotRecord: a teacher does not record.
    """
    with _recording("a teacher"):
        given = _arguments(inputs)
        opinions, valid = [], []
        for one in sources:
            fed, kept = _fed(one, given)
            log_probs, sound = one.member.opinion(_answer(one, fed), kept)
            opinions.append(log_probs)
            valid.append(sound)
        named = {inputs_of(name): var for name, var in given.items()}
        return _built(named, {"opinions": ndx.stack(opinions), "valid": ndx.stack(valid)})


def fusion(count: int, classes: int, pair: Pair) -> bytes:
    """``opinions[K, B, C]``, ``temperature[B]`` and ``weights[K, B]`` in, targets as of ``fused`` out.

    Raises:
        CannotRecord: the operator does not record.
    """
    with _recording(f"operator {pair.operator.name!r}"):
        opinions = _argument((count, "rows", classes))
        temperature, weights = _argument(("rows",)), _argument((count, "rows"))
        softened = [
            primitives.log_softmax(one / ndx.asarray(temperature)[:, None])
            for one in primitives.unstack(ndx.asarray(opinions))
        ]
        outputs, k = _fusion(softened, ndx.asarray(weights), pair)
        return _built({"opinions": opinions, "temperature": temperature, "weights": weights, **k}, outputs)


@contextmanager
def _recording(what: str) -> Iterator[None]:
    primitives.install()
    try:
        with _future.type_warning_level(_future.TypeWarningLevel.NONE):
            yield
    except CannotRecord:
        raise
    except Exception as exc:
        raise CannotRecord(f"{what} does not record: {type(exc).__name__}: {_first_line(exc)}") from exc


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:200]


def _argument(shape: tuple[int | str, ...], dtype: Any = np.float32) -> Var:
    return spox.argument(spox.Tensor(dtype, shape))


def _arguments(inputs: Mapping[str, TensorSpec]) -> dict[str, Var]:
    return {
        name: _argument(("rows", *spec.shape), np.str_ if spec.dtype == "utf8" else np.dtype(spec.dtype))
        for name, spec in inputs.items()
    }


def _fed(one: Source, given: Mapping[str, Var]) -> tuple[dict[str, Var], Symbol | None]:
    """A model's inputs, and whether they say what was given; None where that is sure."""
    member, fed, kept = one.member, {}, None
    for theirs, ours in member.feeds.items():
        var = given[ours]
        if one.teacher.columns(theirs):
            var = onnx_ops.unsqueeze(var, onnx_ops.const(np.array([1])))
        wanted = member.dtypes[theirs]
        if wanted != "O" and np.dtype(wanted) != var.unwrap_tensor().dtype:
            cast = onnx_ops.cast(var, to=np.dtype(wanted))
            if not _exact(var.unwrap_tensor().dtype, np.dtype(wanted)):
                same = _whole_rows(says_the_same(ndx.asarray(var), ndx.asarray(cast)))
                kept = same if kept is None else kept & same
            var = cast
        fed[theirs] = var
    return fed, kept


def _answer(one: Source, fed: Mapping[str, Var]) -> Symbol:
    """A teacher's answer ``[B, C_t]``."""
    answer = spox.inline(one.model)(**fed)[one.member.output]
    answer = onnx_ops.cast(answer, to=np.float32)
    shape = np.array([0, one.member.alignment.width])  # models forget it
    return ndx.asarray(onnx_ops.reshape(answer, onnx_ops.const(shape)))


def _cooled(one: Source, fed: Mapping[str, Var], divisor: Symbol) -> Symbol:
    """A teacher's logits divided by ``[B, 1]``, inside the model where it ends in a matrix."""
    head = heads.take_off(one.model, one.member.output)
    if head is None:
        return _answer(one, fed) / divisor
    hidden = ndx.asarray(spox.inline(head.body)(**fed)[heads.HIDDEN]) / divisor
    weight = head.weight
    if head.bias is not None:
        hidden = ndx.concat([hidden, 1.0 / divisor], axis=1)
        weight = np.concatenate([weight, head.bias[None]])
    return primitives.matmul(hidden, ndx.asarray(weight))


def _exact(given: Any, wanted: Any) -> bool:
    """Whether a cast keeps every value; numpy calls int64 to float64 safe, which it is not."""
    if given.kind in "iu" and wanted.kind == "f":
        return bool(8 * given.itemsize <= np.finfo(wanted).nmant + 1)
    return bool(np.can_cast(given, wanted, "safe"))


def _whole_rows(same: Symbol) -> Symbol:
    width = math.prod(size for size in same.shape[1:] if size is not None)
    return ndx.all(ndx.reshape(same, (-1, width)), axis=1)


def _softened(one: Source, given: Mapping[str, Var], temperature: Symbol) -> tuple[Symbol, Symbol]:
    """A teacher's belief at T, and for which rows it has one.

    Where no classes are merged or dropped, softmax, calibration and softening are one softmax of the answer
    divided by both temperatures; what is merged has to be merged at the calibrated temperature, before T.
    """
    member = one.member
    fed, sound = _fed(one, given)
    if member.alignment.drops or member.alignment.merges:
        log_probs, valid = member.opinion(_answer(one, fed), sound)
        return primitives.log_softmax(log_probs / temperature[:, None]), valid
    divisor = (temperature * member.temperature)[:, None]
    sums = None
    if member.kind == "logits":
        scores = _cooled(one, fed, divisor)
    else:
        answer = _answer(one, fed)
        if member.kind == "probs":
            total = ndx.sum(answer, axis=1)
            sums = (ndx.min(answer, axis=1) >= -NEGATIVE_TOLERANCE) & (ndx.abs(total - 1.0) <= SUM_TOLERANCE)
            answer = ndx.log(ndx.where(answer > 0, answer, 0.0))
        else:
            sums = ndx.abs(ndx.sum(ndx.exp(answer), axis=1) - 1.0) <= SUM_TOLERANCE
        scores = answer / divisor
    log_probs = primitives.log_softmax(member.alignment(scores))
    mass = primitives.probabilities(log_probs)
    assert mass is not None, "log_softmax keeps it"
    valid = ~ndx.isnan(mass[:, 0])  # a row without a distribution is NaN everywhere
    for more in (sums, sound):
        valid = valid if more is None else valid & more
    return log_probs, valid


def _fusion(
    softened: Sequence[Symbol], weights: Symbol, pair: Pair
) -> tuple[dict[str, Symbol], dict[str, Var]]:
    """From softened beliefs ``[B, C]`` to the outputs; and the further arguments they need."""
    entered = softened if pair.floor is None else [primitives.floor(one, pair.floor) for one in softened]
    stacked = primitives.stack(entered)
    pooled = pair.operator.fuse(stacked, weights)
    if pair.output_temperature != 1:
        pooled = primitives.log_softmax(pooled / pair.output_temperature)
    mass = primitives.probabilities(pooled)
    # Before the smallest number takes the place of NaN. A sum with NaN in it is NaN; what is made of
    # softmaxes alone is NaN everywhere or nowhere.
    finite = ~ndx.isnan(ndx.sum(pooled, axis=1) if mass is None else mass[:, 0])
    pooled = _at_least(pooled, LOG_SMALLEST) if mass is None else ndx.log(_at_least(mass, 2.0**-126))
    some = sampled_rows(len(entered), entered[0].shape[1])
    sample = ndx.stack([primitives.first(one, some) for one in (*entered, pooled)])
    outputs = {"log_probs": pooled, "finite": finite, "sample": sample}
    if pair.diagnostics:
        mixture = weighted_logsumexp(stacked, weights)
        outputs["entropy"], outputs["divergence"] = diagnosed(entered, mixture, weights, pooled)
    if pair.top_k is None:
        return outputs, {}
    k = _argument((1,), np.int64)
    outputs["indices"], outputs["log_probs"], outputs["tail"] = primitives.top_k(pooled, k)
    return outputs, {"k": k}


def _at_least(x: Symbol, smallest: float) -> Symbol:
    return ndx.asarray(onnx_ops.max([x.unwrap_spox(), onnx_ops.const(np.float32(smallest))]))


def _built(arguments: Mapping[str, Var], outputs: Mapping[str, Symbol]) -> bytes:
    # What is built last is run first: a sample is taken before what it is of is overwritten.
    ordered = sorted(outputs, key=lambda name: name == "sample")
    model = spox.build(dict(arguments), {name: outputs[name].unwrap_spox() for name in ordered})
    return bytes(model.SerializeToString())
