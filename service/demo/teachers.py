"""The teachers: three kinds of model, each trained on a part of its own and exported to ONNX.

They differ on purpose in all that an ensemble has to bring together: the name of the graph's input, what
the output means (logits or probabilities), the order of the classes, and how sure they are of themselves.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from service.demo import cnn
from service.demo.calibration import at_temperature, fit_temperature
from service.demo.data import Dataset, Part, Rows
from service.demo.setting import Setting
from service.errors import ServiceError

CHECKED_ROWS = 16
TOLERANCE = 1e-5

Probabilities = NDArray[np.floating]  # [B, C], in the data set's order of classes
Predict = Callable[[Rows], Probabilities]


class ExportDiffers(ServiceError):
    """Raised when an exported teacher does not answer what its original answers."""


class Teacher(NamedTuple):
    """A trained teacher: its file, how the file is to be read, and the original it was exported from."""

    name: str
    kind: str  # for people: what made it
    path: Path
    graph_input: str
    graph_output: str
    output_kind: str  # as in the configuration: logits or probs
    classes: tuple[str, ...]  # in the order of its outputs
    parameters: int
    size_bytes: int
    temperature: float
    trained_rows: int
    original: Predict

    def calibrated(self, rows: Rows) -> Probabilities:
        """What the server should answer for this teacher alone at temperature one."""
        return np.exp(at_temperature(self.original(rows), self.temperature))


class _Fitted(NamedTuple):
    """What a maker hands back, before the file is looked at."""

    kind: str
    graph_input: str
    graph_output: str
    output_kind: str
    reverse: bool  # the outputs are in the reverse order of the data set's classes
    original: Predict


def train_cnn(part: Part, path: Path, dataset: Dataset, setting: Setting) -> _Fitted:
    """A convolutional network that answers logits."""
    network = cnn.train(
        torch.from_numpy(part.rows),
        torch.from_numpy(part.labels),
        side=dataset.side,
        classes=len(dataset.classes),
        epochs=setting.teacher_epochs,
        seed=setting.split_seed,
    )
    cnn.export(network, path)

    def original(rows: Rows) -> Probabilities:
        with torch.inference_mode():
            probabilities: Probabilities = torch.softmax(network(torch.from_numpy(rows)), dim=1).numpy()
        return probabilities

    return _Fitted("torch", cnn.GRAPH_INPUT, cnn.GRAPH_OUTPUT, "logits", False, original)


def train_trees(part: Part, path: Path, dataset: Dataset, setting: Setting) -> _Fitted:
    """Randomised trees whose classes are numbered from the last to the first, as another team might have."""
    last = len(dataset.classes) - 1
    model = ExtraTreesClassifier(setting.trees, min_samples_leaf=2, random_state=setting.split_seed)
    model.fit(part.rows, last - part.labels)
    _export(model, path, graph_input="features", width=part.rows.shape[1])

    def original(rows: Rows) -> Probabilities:
        probabilities: Probabilities = model.predict_proba(rows)[:, ::-1]
        return probabilities

    return _Fitted("sklearn", "features", "probabilities", "probs", True, original)


def train_svm(part: Part, path: Path, dataset: Dataset, setting: Setting) -> _Fitted:
    """Support vectors on principal components, their scores turned into probabilities by Platt's method."""
    del dataset
    machine = CalibratedClassifierCV(SVC(C=10.0), ensemble=False)
    model = make_pipeline(PCA(setting.components, random_state=setting.split_seed), machine)
    model.fit(part.rows, part.labels)
    _export(model, path, graph_input="X", width=part.rows.shape[1])

    def original(rows: Rows) -> Probabilities:
        probabilities: Probabilities = model.predict_proba(rows)
        return probabilities

    return _Fitted("sklearn", "X", "probabilities", "probs", False, original)


MAKERS = {"cnn": train_cnn, "trees": train_trees, "svm": train_svm}


def make(
    name: str, part: Part, folder: Path, *, calibration: Part, dataset: Dataset, setting: Setting
) -> Teacher:
    """Train one teacher, fit its temperature, export it, and compare the file with the original.

    Args:
        name: one of ``MAKERS``.
        part: the only rows it is trained on.
        folder: where its file goes; made if need be.
        calibration: the rows its temperature is fitted on.
        dataset: for the classes and the shape of a picture.
        setting: for the effort and the seed.

    Raises:
        ExportDiffers: the file does not answer what the model answers.
        ValueError: the part lacks a class, so the outputs would not be the data set's classes.
    """
    if len(np.unique(part.labels)) != len(dataset.classes):
        raise ValueError(f"the {len(part.labels)} rows of teacher {name!r} do not hold every class")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    fitted = MAKERS[name](part, path, dataset, setting)
    teacher = Teacher(
        name=name,
        kind=fitted.kind,
        path=path,
        graph_input=fitted.graph_input,
        graph_output=fitted.graph_output,
        output_kind=fitted.output_kind,
        classes=dataset.classes[::-1] if fitted.reverse else dataset.classes,
        parameters=count_numbers(onnx.load(path)),
        size_bytes=path.stat().st_size,
        temperature=fit_temperature(fitted.original(calibration.rows), calibration.labels),
        trained_rows=len(part.rows),
        original=fitted.original,
    )
    compare(f"the file of teacher {name!r}", answer(teacher, part.rows, dataset), fitted.original, part.rows)
    return teacher


def answer(teacher: Teacher, rows: Rows, dataset: Dataset) -> Probabilities:
    """What the teacher's *file* says of the first rows, run by onnx's own evaluator.

    That evaluator is slow and shares no code with the runtime that serves the file later.
    """
    graph = ReferenceEvaluator(str(teacher.path))
    answers = graph.run([teacher.graph_output], {teacher.graph_input: rows[:CHECKED_ROWS]})
    raw = np.asarray(next(iter(answers)))
    if teacher.output_kind == "logits":
        raw = torch.softmax(torch.from_numpy(raw), dim=1).numpy()
    order = [teacher.classes.index(name) for name in dataset.classes]
    probabilities: Probabilities = raw[:, order]
    return probabilities


def compare(what: str, answered: Probabilities, original: Predict, rows: Rows) -> float:
    """The largest difference between answers and the model they should come from.

    Args:
        what: names the answers in the message.
        answered: probabilities of the first ``len(answered)`` rows.
        original: the model.
        rows: at least as many as were answered.

    Raises:
        ExportDiffers: it is larger than 1e-5, or the answers are not numbers.
    """
    expected = original(rows[: len(answered)])
    difference = float(np.abs(answered - expected).max())
    if not difference <= TOLERANCE:
        row = int(np.abs(answered - expected).max(axis=1).argmax())
        raise ExportDiffers(
            f"{what} differs from the model it was exported from by {difference:.2g} in a probability "
            f"(allowed: {TOLERANCE:g}); row {row}: {np.round(answered[row], 4).tolist()}, "
            f"the model says {np.round(expected[row], 4).tolist()}"
        )
    return difference


def count_numbers(model: onnx.ModelProto) -> int:
    """How many floating-point numbers a graph holds: weights, support vectors, thresholds and leaves.

    The nearest to "parameters" that means the same for a network and for trees.
    """
    held = sum(
        numpy_helper.to_array(tensor).size
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    )
    for node in model.graph.node:
        for attribute in node.attribute:
            if not attribute.name.endswith("hitrates"):  # statistics of the training rows, not used
                held += len(attribute.floats)
    return held


def _export(model: BaseEstimator, path: Path, *, graph_input: str, width: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own use of what its dependencies deprecate
        graph = to_onnx(
            model,
            initial_types=[(graph_input, FloatTensorType([None, width]))],
            options={"zipmap": False},
        )
    path.write_bytes(graph.SerializeToString())
