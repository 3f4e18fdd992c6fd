"""The demo's data sets, and the one way they are cut into disjoint parts."""

import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from service.demo.setting import Setting
from service.errors import ServiceError

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it
FASHION_MNIST_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip

_IMAGE_HEADER_BYTES = 16
_LABEL_HEADER_BYTES = 8

Rows = NDArray[np.float32]  # [B, D], pixels between 0 and 1
Labels = NDArray[np.int64]  # [B], indices into the classes


class MissingDataset(ServiceError):
    """Raised when a data set that is not bundled is not installed on this machine."""


class Dataset(NamedTuple):
    """Labelled rows; the last ``official_test`` of them were set aside for testing by the data's authors."""

    name: str
    classes: tuple[str, ...]
    side: int  # a row is a square picture of side * side pixels
    rows: Rows
    labels: Labels
    official_test: int = 0


class Part(NamedTuple):
    """Some rows of a data set with their labels."""

    rows: Rows
    labels: Labels


class Indices(NamedTuple):
    """Which rows of a data set go where; ``few`` lies within ``student``, all else is disjoint."""

    test: NDArray[np.int64]
    teachers: tuple[NDArray[np.int64], ...]
    calibration: NDArray[np.int64]
    student: NDArray[np.int64]
    few: NDArray[np.int64]


class Split(NamedTuple):
    """A data set, cut: every teacher has a part of its own, and the student rows that no teacher has seen."""

    test: Part
    teachers: tuple[Part, ...]
    calibration: Part  # no teacher is trained on it
    student: Rows  # no labels: what the student sends to the server
    few: Part  # the only hard labels there are for the student's rows


def load(name: str) -> Dataset:
    """A data set by name.

    Args:
        name: ``digits`` (bundled with scikit-learn) or ``fashion-mnist`` (Debian's package).

    Raises:
        MissingDataset: it is not installed; the message says how to install it.
    """
    if name == "digits":
        return _digits()
    if name == "fashion-mnist":
        return fashion_mnist(FASHION_MNIST_FOLDER)
    raise MissingDataset(f"there is no data set {name!r}; the demo knows digits and fashion-mnist")


def fashion_mnist(folder: Path) -> Dataset:
    """Fashion-MNIST from the four files of its authors.

    Args:
        folder: holds ``{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz``.

    Raises:
        MissingDataset: a file is not there.
    """
    rows, labels = [], []
    try:
        for part in ("train", "t10k"):
            images = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
            truth = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
            labels.append(np.frombuffer(truth, np.uint8, offset=_LABEL_HEADER_BYTES))
            pixels = np.frombuffer(images, np.uint8, offset=_IMAGE_HEADER_BYTES)
            rows.append(pixels.reshape(len(labels[-1]), -1))
    except FileNotFoundError:
        raise MissingDataset(
            f"Fashion-MNIST is not in {folder}; install it with: apt-get install dataset-fashion-mnist"
        ) from None
    return Dataset(
        name="fashion-mnist",
        classes=FASHION_MNIST_CLASSES,
        side=28,
        rows=(np.concatenate(rows) / 255).astype(np.float32),
        labels=np.concatenate(labels).astype(np.int64),
        official_test=len(labels[-1]),
    )


def _digits() -> Dataset:
    rows, labels = load_digits(return_X_y=True)
    return Dataset(
        name="digits",
        classes=tuple(str(digit) for digit in range(10)),
        side=8,
        rows=(rows / 16).astype(np.float32),
        labels=labels.astype(np.int64),
    )


def cut(dataset: Dataset, setting: Setting, *, teachers: int) -> Split:
    """Cut a data set into the parts of the demo, seeded by the setting.

    Raises:
        ValueError: the data set has fewer rows than the setting asks for.
    """
    indices = cut_indices(dataset.labels, setting, teachers=teachers, official_test=dataset.official_test)

    def part(chosen: NDArray[np.int64]) -> Part:
        return Part(dataset.rows[chosen], dataset.labels[chosen])

    return Split(
        test=part(indices.test),
        teachers=tuple(part(own) for own in indices.teachers),
        calibration=part(indices.calibration),
        student=dataset.rows[indices.student],
        few=part(indices.few),
    )


def cut_indices(labels: Labels, setting: Setting, *, teachers: int, official_test: int = 0) -> Indices:
    """Draw the parts of the demo without replacement.

    The few labelled rows hold every class equally often, which favours the student that learns from them
    alone: with 50 labels drawn at random a class may have one or two.

    Args:
        labels: ``[B]``.
        setting: the sizes and the seed.
        teachers: how many parts for teachers.
        official_test: the test rows are drawn from the last so many rows, and no others are; 0: from all.

    Raises:
        ValueError: there are too few rows.
    """
    rng = np.random.default_rng(setting.split_seed)
    of_teachers = teachers * setting.teacher_rows
    wanted = setting.test_rows + of_teachers + setting.calibration_rows + setting.student_rows
    if official_test:
        test = len(labels) - official_test + rng.permutation(official_test)[: setting.test_rows]
        rest = rng.permutation(len(labels) - official_test)
        available = min(len(test), setting.test_rows) + len(rest)
    else:
        order = rng.permutation(len(labels))
        test, rest, available = order[: setting.test_rows], order[setting.test_rows :], len(order)
    if available < wanted:
        raise ValueError(f"the setting asks for {wanted} rows, the data set has {available}")
    own, calibration, rest = np.split(rest, [of_teachers, of_teachers + setting.calibration_rows])
    student = rest[: setting.student_rows]
    classes = np.unique(labels)
    each = setting.few_labels // len(classes)
    few = np.concatenate([student[labels[student] == index][:each] for index in classes])
    if len(few) < each * len(classes):
        raise ValueError(f"the student's {len(student)} rows do not hold {each} of every class")
    return Indices(
        test=test,
        teachers=tuple(np.split(own, teachers)),
        calibration=calibration,
        student=student,
        few=few,
    )
