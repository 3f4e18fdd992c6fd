import numpy as np
import onnx
import pytest

from service.config import load
from service.demo import data, server, teachers
from service.demo.setting import SETTINGS

SETTING = SETTINGS["digits"]._replace(teacher_rows=150, teacher_epochs=8, trees=10, components=20)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def split(digits):
    return data.cut(digits, SETTING, teachers=3)


@pytest.fixture(scope="module")
def trained(digits, split, tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "teachers"
    return {
        name: teachers.make(
            name, part, folder, calibration=split.calibration, dataset=digits, setting=SETTING
        )
        for name, part in zip(teachers.MAKERS, split.teachers, strict=True)
    }


@pytest.mark.parametrize("name", list(teachers.MAKERS))
def test_a_file_answers_what_its_original_answers(trained, digits, split, name):
    teacher, rows = trained[name], split.test.rows[: teachers.CHECKED_ROWS]
    answered = teachers.answer(teacher, rows, digits)
    assert answered == pytest.approx(teacher.original(rows), abs=1e-5)
    assert answered.sum(axis=1) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", list(teachers.MAKERS))
def test_every_teacher_knows_more_than_chance(trained, split, name):
    right = trained[name].original(split.test.rows).argmax(axis=1) == split.test.labels
    assert right.mean() > 0.3


def test_teachers_differ_in_what_an_ensemble_must_bring_together(trained):
    assert {teacher.output_kind for teacher in trained.values()} == {"logits", "probs"}
    assert len({teacher.graph_input for teacher in trained.values()}) == 3
    assert trained["trees"].classes == tuple("9876543210")
    assert trained["cnn"].classes == tuple("0123456789")


def test_a_teacher_is_counted(trained):
    network = 16 * 9 + 16 + 32 * 16 * 9 + 32 + (32 * 4) * 10 + 10
    assert trained["cnn"].parameters == network
    assert all(teacher.size_bytes == teacher.path.stat().st_size for teacher in trained.values())
    assert all(teacher.trained_rows == 150 for teacher in trained.values())


def test_a_file_that_answers_otherwise_is_refused(trained, digits, split):
    teacher = trained["svm"]
    rows = split.test.rows
    answered = teachers.answer(teacher, rows, digits)
    with pytest.raises(teachers.ExportDiffers, match="the file differs from the model"):
        teachers.compare("the file", answered[:, ::-1], teacher.original, rows)
    with pytest.raises(teachers.ExportDiffers):
        teachers.compare("the file", np.full_like(answered, np.nan), teacher.original, rows)


def test_a_part_without_every_class_is_refused(digits, split, tmp_path):
    only = split.teachers[0].labels < 9
    part = data.Part(split.teachers[0].rows[only], split.teachers[0].labels[only])
    with pytest.raises(ValueError, match="do not hold every class"):
        teachers.make("svm", part, tmp_path, calibration=split.calibration, dataset=digits, setting=SETTING)


def test_statistics_of_training_are_no_numbers_of_the_model():
    node = onnx.helper.make_node("X", [], [], weights=[1.0, 2.0], nodes_hitrates=[1.0] * 9)
    tensor = onnx.numpy_helper.from_array(np.zeros((2, 3), np.float32), "w")
    graph = onnx.helper.make_graph([node], "g", [], [], initializer=[tensor])
    assert teachers.count_numbers(onnx.helper.make_model(graph)) == 8


def test_the_configuration_is_what_the_server_reads(trained, digits, tmp_path, monkeypatch):
    folder = trained["cnn"].path.parent.parent
    config = folder / "ensemble.yaml"
    server.write_yaml(config, digits, list(trained.values()), SETTING)
    monkeypatch.chdir(tmp_path)  # paths are relative to the file, not to where one stands
    ensemble = load(config).ensembles["digits"]
    assert ensemble.classes == digits.classes
    assert [teacher.name for teacher in ensemble.teachers] == ["cnn", "trees", "svm"]
    assert all(teacher.model.samefile(trained[teacher.name].path) for teacher in ensemble.teachers)
    assert [teacher.temperature for teacher in ensemble.teachers] == [
        teacher.temperature for teacher in trained.values()
    ]
    assert ensemble.teachers[1].classes == tuple((name, name) for name in "9876543210")
    recipe = ensemble.recipe("default")
    assert recipe.operator.as_dict() == {"name": "holder", "exponent": 0.5}
    assert recipe.temperature == SETTING.temperature
    assert str(folder) not in config.read_text()


def test_a_server_that_cannot_start_shows_why(tmp_path):
    config = tmp_path / "ensemble.yaml"
    config.write_text("ensembles: {}\n")
    with (
        pytest.raises(server.ServerFailed, match=r"ended with status 2 .*\n(.|\n)*ensembles"),
        server.serving(config, log=tmp_path / "server.log"),
    ):
        pass
