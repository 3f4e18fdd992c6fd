"""What the configuration says of a teacher elsewhere."""

import pytest

from service.config import RemoteModel, load
from service.errors import ConfigError

CONFIG = """\
ensembles:
  toy:
    classes: [a, b]
    teachers:
      - {name: far, model: "kserve+http://host:8000/m", output: {kind: logits}}
    recipes: {default: {operator: linear}}
"""
ADDRESS = '"kserve+http://host:8000/m"'


@pytest.fixture
def read(tmp_path):
    def read_edited(*edits):
        text = CONFIG
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "c.yaml").write_text(text)
        (teacher,) = load(tmp_path / "c.yaml").ensembles["toy"].teachers
        return teacher

    return read_edited


def refused(read, *edits):
    with pytest.raises(ConfigError) as caught:
        read(*edits)
    return str(caught.value)


def test_defaults(read):
    teacher = read()
    assert teacher.model == RemoteModel("http://host:8000", "m")
    assert (teacher.revision, teacher.parameters, teacher.key_file) == (None, {}, None)
    assert (teacher.timeout_s, teacher.retries, teacher.max_reply_bytes) == (10, 2, 64 * 2**20)


def test_what_can_be_said_of_it(read, tmp_path):
    parameters = "{soft_targets_temperature: 1, deep: true, note: x, share: .5}"
    terms = "timeout_s: 3.5, retries: 0, max_reply_bytes: 1MiB, key_file: far.key"
    teacher = read(("output:", f"revision: 2026-11, parameters: {parameters}, {terms}, output:"))
    assert teacher.revision == "2026-11"
    assert teacher.parameters == {"soft_targets_temperature": 1, "deep": True, "note": "x", "share": 0.5}
    assert [type(value) for value in teacher.parameters.values()] == [int, bool, str, float]
    assert (teacher.timeout_s, teacher.retries, teacher.max_reply_bytes) == (3.5, 0, 2**20)
    assert teacher.key_file == tmp_path / "far.key"


@pytest.mark.parametrize(
    ("address", "model", "path"),
    [
        ("kserve+http://host/m", RemoteModel("http://host", "m"), "/v2/models/m"),
        ("kserve+https://host/m", RemoteModel("https://host", "m"), "/v2/models/m"),
        ("kserve+http://HOST:1/m", RemoteModel("http://host:1", "m"), "/v2/models/m"),
        ("kserve+http://[::1]:8/m", RemoteModel("http://[::1]:8", "m"), "/v2/models/m"),
        (
            "kserve+http://h/digits.sparse",
            RemoteModel("http://h", "digits.sparse"),
            "/v2/models/digits.sparse",
        ),
        ("kserve+http://h/m/versions/3", RemoteModel("http://h", "m", "3"), "/v2/models/m/versions/3"),
        ("kserve+http://h/a%20b%2Fc", RemoteModel("http://h", "a b/c"), "/v2/models/a%20b%2Fc"),
    ],
)
def test_an_address_names_a_server_and_a_model(read, address, model, path):
    found = read((ADDRESS, f'"{address}"')).model
    assert found == model
    assert found.path == path
    assert read((ADDRESS, f'"{found}"')).model == model  # as it is shown, it can be written


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("kserve+http://host", "names no model; write kserve+http://host:8000/model or "),
        ("kserve+http://host/", "names no model"),
        ("kserve+http://host/v2/models/m", "and the path /v2/models is put before it"),
        ("kserve+http://host/m/", "names no model"),
        ("kserve+http://host/m/versions/", "names no model"),
        ("kserve+http://host/m/infer/1", "names no model"),
        ("kserve+http://host/..", "names no model"),
        ("kserve+http://host/m/versions/%2E%2E", "names no model"),
        ("kserve+http://host/m?key=1", "what goes with every request is told as parameters"),
        ("kserve+http://host/m#a", "told as parameters"),
        ("kserve+http:///m", "is no address of a teacher; write kserve+http://"),
        ("kserve+grpc://host/m", "is no address of a teacher"),
        ("kserve+http://host:port/m", "this is no address of a teacher: Port could not be cast"),
        ("kserve+http://host:99999/m", "this is no address of a teacher: Port out of range"),
        ("kserve+http://[::1/m", "this is no address of a teacher: Invalid IPv6 URL"),
        ("kserve+http://host/m m", "is no address of a teacher"),
        ("http://host/m", "'http' is no scheme of a teacher; give the path of an ONNX file, or kserve+http"),
        ("grpc+kserve://host/m", "'grpc+kserve' is no scheme of a teacher"),
    ],
)
def test_an_address_that_is_none_is_refused(read, address, said):
    assert said in refused(read, (ADDRESS, f'"{address}"'))


@pytest.mark.parametrize("user", ["me:secret@", "secret@", ":secret@"])
def test_a_password_in_an_address_is_refused_and_not_repeated(read, user):
    said = refused(read, (ADDRESS, f'"kserve+http://{user}host/m"'))
    assert "put the key into a file, and name it as key_file" in said
    assert "secret" not in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("revision: 1", 'revision: 1 is not text: write "1" with quotes'),
        ("revision: ''", "an empty text names nothing"),
        ("timeout_s: 0", "greater than 0"),
        ("timeout_s: .inf", "finite number"),
        ("retries: -1", "greater than or equal to 0"),
        ("retries: 11", "less than or equal to 10"),
        ("retries: 1.5", "valid integer"),
        ("max_reply_bytes: 0", "greater than 0"),
        ("parameters: [a]", "are no parameters: write {name: value}"),
        ("parameters: {a: [1]}", "parameter 'a' is [1]; give a finite number, a text, true or false"),
        ("parameters: {a: .nan}", "parameter 'a' is nan"),
        ("parameters: {a: null}", "parameter 'a' is None"),
        ("parameters: {1: a}", '1 is not text: write "1" with quotes'),
        ("parameters: {binary_data_output: true}", "how tensors travel is agreed with the server"),
        ("parameters: {sequence_id: 1}", "'sequence_id' is not for you to set: rows are asked in any order"),
        ("device: cpu", "device is for a model that runs here; this one runs at http://host:8000"),
        ("allow_cpu: true", "allow_cpu is for a model that runs here"),
    ],
)
def test_what_cannot_be_said_of_it_is_refused(read, line, said):
    message = refused(read, ("output:", f"{line}, output:"))
    assert "ensembles.toy.teachers.0" in message
    assert said in message


def test_a_try_that_may_take_longer_than_all_of_them_is_refused(read):
    said = refused(read, ("output:", "timeout_s: 11, output:"))
    assert "teacher 'far': timeout_s 11 of one try exceeds teacher_timeout_s (10)" in said
    assert read(("classes:", "teacher_timeout_s: 3\n    classes:")).timeout_s == 10  # nobody said so


@pytest.mark.parametrize("model", ["one.onnx", "fake://?classes=2"])
@pytest.mark.parametrize(
    "line",
    ["revision: a", "parameters: {}", "timeout_s: 10", "retries: 2", "max_reply_bytes: 1", "key_file: k"],
)
def test_what_is_only_for_one_elsewhere_is_refused_of_others(read, model, line):
    message = refused(read, (ADDRESS, f'"{model}"'), ("output:", f"{line}, output:"))
    assert f"{line.split(':')[0]} is for a teacher elsewhere, model: kserve+http://host:port/model" in message


def test_what_has_no_revision_is_not_kept(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    assert "teacher 'far' has no revision" in load(path).ensembles["toy"].not_cached
    path.write_text(CONFIG.replace("output:", "revision: a, output:"))
    assert load(path).ensembles["toy"].not_cached is None
    path.write_text(CONFIG.replace(ADDRESS, "one.onnx"))
    assert load(path).ensembles["toy"].not_cached is None
