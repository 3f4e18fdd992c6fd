"""Train the three small teachers beside this file, each on another third of the handwritten digits.

Some of the digits that none has seen become the example rows.

python deploy/ensembles/train.py        # needs soft-targets[demo]; seconds

They are in the repository, so that a fresh machine has something to serve; `make demo` trains better ones.
"""

from pathlib import Path

import numpy as np
import onnx
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier

HERE = Path(__file__).parent
TEACHERS = {
    "regression": LogisticRegression(C=0.05, max_iter=1000),
    "network": MLPClassifier((32,), alpha=0.01, max_iter=400, random_state=0),
    "bayes": GaussianNB(var_smoothing=0.05),
}
HELD_OUT = 297
SAMPLES = 16


def main() -> None:
    """Train, export, and say how well each does on digits that none has seen."""
    digits = load_digits()
    pixels, labels = (digits.data / 16).astype("float32"), digits.target
    seen = len(labels) - HELD_OUT
    for place, (name, teacher) in enumerate(TEACHERS.items()):
        part = slice(place, seen, len(TEACHERS))
        teacher.fit(pixels[part], labels[part])
        graph = to_onnx(
            teacher,
            initial_types=[("pixels", FloatTensorType([None, 64]))],
            options={id(teacher): {"zipmap": False}},
            target_opset={"": 21, "ai.onnx.ml": 3},
        )
        onnx.save(graph, HERE / f"{name}.onnx")
        print(f"{name}: {teacher.score(pixels[seen:], labels[seen:]):.3f} of {HELD_OUT} held out")
    np.savez_compressed(HERE / "samples.npz", pixels=pixels[seen : seen + SAMPLES])


if __name__ == "__main__":
    main()
