import gzip

import numpy as np
import pytest

from service.demo import data
from service.demo.setting import SETTINGS
from service.errors import ServiceError


def indices(**changes):
    setting = SETTINGS["digits"]._replace(**changes)
    return data.cut_indices(data.load("digits").labels, setting, teachers=3)


def test_digits_are_pictures_between_zero_and_one():
    digits = data.load("digits")
    assert digits.rows.dtype == np.float32
    assert digits.rows.shape == (1797, 64)
    assert (digits.rows.min(), digits.rows.max()) == (0.0, 1.0)


def test_no_row_is_in_two_parts():
    cut = indices()
    together = np.concatenate([cut.test, *cut.teachers, cut.calibration, cut.student])
    assert len(np.unique(together)) == len(together) == 1797


def test_the_few_labelled_rows_are_the_students_and_hold_every_class_equally():
    cut, labels = indices(), data.load("digits").labels
    assert set(cut.few) <= set(cut.student)
    assert np.bincount(labels[cut.few]).tolist() == [5] * 10


def test_the_same_seed_cuts_the_same():
    one, same, other = indices(), indices(), indices(split_seed=21)
    assert np.array_equal(one.test, same.test)
    assert np.array_equal(one.student, same.student)
    assert np.array_equal(one.few, same.few)
    assert not np.array_equal(one.student, other.student)


def test_parts_hold_the_rows_of_their_labels():
    digits, setting = data.load("digits"), SETTINGS["digits"]
    split, cut = data.cut(digits, setting, teachers=3), indices()
    assert np.array_equal(split.teachers[1].rows, digits.rows[cut.teachers[1]])
    assert np.array_equal(split.teachers[1].labels, digits.labels[cut.teachers[1]])
    assert np.array_equal(split.student, digits.rows[cut.student])
    assert len(split.test.rows) == setting.test_rows


def test_too_many_rows_are_refused():
    with pytest.raises(ValueError, match="asks for 1798 rows, the data set has 1797"):
        indices(student_rows=761)


def test_an_official_test_part_stays_apart():
    labels = np.tile(np.arange(10), 100)
    setting = SETTINGS["digits"]._replace(
        test_rows=50, teacher_rows=20, calibration_rows=10, student_rows=300, few_labels=10
    )
    cut = data.cut_indices(labels, setting, teachers=3, official_test=200)
    assert cut.test.min() >= 800
    assert len(cut.test) == 50
    assert max(part.max() for part in (*cut.teachers, cut.calibration, cut.student)) < 800


def test_an_absent_dataset_says_how_to_install_it(tmp_path):
    with pytest.raises(data.MissingDataset) as caught:
        data.fashion_mnist(tmp_path)
    assert isinstance(caught.value, ServiceError)
    assert str(caught.value) == (
        f"Fashion-MNIST is not in {tmp_path}; install it with: apt-get install dataset-fashion-mnist"
    )


def test_an_unknown_dataset_is_refused_by_name():
    with pytest.raises(data.MissingDataset, match="no data set 'cats'"):
        data.load("cats")


def test_fashion_mnist_is_read_from_its_authors_files(tmp_path):
    for part, rows in (("train", 3), ("t10k", 2)):
        pixels = np.full((rows, 784), 255, np.uint8).tobytes()
        images = tmp_path / f"{part}-images-idx3-ubyte.gz"
        images.write_bytes(gzip.compress(bytes(16) + pixels))
        truth = tmp_path / f"{part}-labels-idx1-ubyte.gz"
        truth.write_bytes(gzip.compress(bytes(8) + bytes(range(rows))))
    fashion = data.fashion_mnist(tmp_path)
    assert fashion.rows.shape == (5, 784)
    assert fashion.rows.max() == 1.0
    assert fashion.labels.tolist() == [0, 1, 2, 0, 1]
    assert fashion.official_test == 2
