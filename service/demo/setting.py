"""What the demo fixes before it looks at any result: sizes, seeds, recipe, and how students are trained."""

from typing import NamedTuple


class Setting(NamedTuple):
    """One run of the demo, stated in full and kept in the report."""

    test_rows: int
    teacher_rows: int  # for each teacher, with labels
    calibration_rows: int  # with labels, shared: every teacher's temperature is fitted on them
    student_rows: int  # without labels
    few_labels: int  # of the student's rows, this many also have a hard label
    hidden: int  # the width of the student's one hidden layer
    epochs: int
    batch_rows: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    temperature: float = 2.0
    exponent: float = 0.5  # of the Hölder pool
    split_seed: int = 20
    teacher_epochs: int = 40  # of the convolutional network
    trees: int = 100
    components: int = 40  # of the principal component analysis before the support vectors

    def split(self, teachers: int) -> str:
        """How the data is cut, in one sentence."""
        return (
            f"{self.test_rows:,} rows for the test; {self.teacher_rows:,} labelled rows for each of "
            f"{teachers} teachers; {self.calibration_rows:,} labelled rows for their temperatures; "
            f"{self.student_rows:,} rows that no teacher has seen for the student, {self.few_labels:,} of "
            "them with a label. No row is in two parts."
        )


# Fixed once, and not tuned on what the students then did.
SETTINGS = {
    "digits": Setting(
        test_rows=397,
        teacher_rows=180,
        calibration_rows=100,
        student_rows=760,
        few_labels=50,
        hidden=32,
        epochs=40,
    ),
    "fashion-mnist": Setting(
        test_rows=5_000,
        teacher_rows=3_000,
        calibration_rows=1_000,
        student_rows=12_000,
        few_labels=200,
        hidden=64,
        epochs=12,
        batch_rows=128,
        teacher_epochs=12,
    ),
}
