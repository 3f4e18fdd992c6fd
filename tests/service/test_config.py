import re
from pathlib import Path

import pytest

from service.config import Settings, load
from service.errors import ConfigError
from service.model import OperatorSpec
from soft_targets.wire import DTYPES

MINIMAL = """\
ensembles:
  toy:
    classes: [a, b]
    teachers:
      - {name: one, model: one.onnx, output: {kind: logits}}
      - {name: two, model: deep/two.onnx, output: {kind: probs}, weight: 3}
    recipes:
      default: {operator: linear}
"""


@pytest.fixture
def read(tmp_path, monkeypatch):
    for variable in list(__import__("os").environ):
        if variable.startswith("SOFT_TARGETS__"):
            monkeypatch.delenv(variable)

    def read_text(text, *edits):
        for old, new in edits:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "ensembles.yaml"
        path.write_text(text)
        return load(path)

    return read_text


def refused(read, *edits, text=MINIMAL):
    with pytest.raises(ConfigError) as caught:
        read(text, *edits)
    assert re.match(r".*ensembles\.yaml: ", str(caught.value))
    return str(caught.value).split("ensembles.yaml: ", 1)[1]


def test_defaults(read):
    settings = read(MINIMAL)
    assert (settings.server.host, settings.server.port) == ("127.0.0.1", 8000)
    assert settings.limits.max_body_bytes == 64 * 2**20
    assert (settings.limits.max_rows_per_request, settings.limits.request_timeout_s) == (4096, 60)
    assert (settings.cache.max_bytes, settings.cache.ttl_s) == (512 * 2**20, 604_800)
    toy = settings.ensembles["toy"]
    assert toy.inputs is None
    assert toy.batching.max_rows == 128
    recipe = toy.recipe("default")
    assert recipe.weights == (0.25, 0.75)
    assert (recipe.temperature, recipe.floor, recipe.output_temperature, recipe.top_k) == (1, 1e-6, 1, None)


def test_a_full_file(read):
    settings = read(
        """\
server: {host: 127.0.0.2, port: 0}
limits: {max_body_bytes: 1KiB, max_rows_per_request: 7, request_timeout_s: 2.5}
auth: {keys_file: keys.jsonl, open: false}
cache: {url: "memory://?max_bytes=1MiB", ttl_s: 60}
ensembles:
  digits:
    inputs: {pixels: {dtype: float32, shape: [8, 8], allow_nan: true}, note: {dtype: utf8}}
    classes: ["0", "no", "off", "1e-6"]
    teachers:
      - {name: cnn, model: cnn.onnx, output: {name: logits, kind: logits}, temperature: 1.2, weight: 0.5}
      - {name: svm, model: svm.onnx, inputs: {X: pixels}, output: {kind: log_probs}, missing: floor,
         classes: ["no", {"zero": "0"}, {"nil": "0"}, {"blank": null}]}
    device: cpu
    batching: {max_rows: 32}
    recipes:
      default: {operator: {name: holder, exponent: 0.5}, temperature: 4, weights: {svm: 1}, floor: 1e-4}
      sparse: {operator: linear, output_temperature: 0.5, sparsity: {top_k: 2}}
"""
    )
    digits = settings.ensembles["digits"]
    assert digits.classes == ("0", "no", "off", "1e-6")
    assert digits.inputs["pixels"].shape == (8, 8)
    assert digits.inputs["note"].wire_dtype == "utf8"
    assert digits.teachers[1].classes == (("no", "no"), ("zero", "0"), ("nil", "0"), ("blank", None))
    recipe = digits.recipe("default")
    assert recipe.operator == OperatorSpec("holder", (("exponent", 0.5),))
    assert (recipe.weights, recipe.floor) == ((0, 1), 1e-4)
    assert digits.recipe("sparse").top_k == 2
    assert settings.auth.keys_file.name == "keys.jsonl"


def test_every_dtype_has_a_name(read):
    names = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64",
             "float16", "float32", "float64", "utf8"]  # fmt: skip
    spelled = []
    for name in names:
        settings = read(MINIMAL, ("classes:", f"inputs: {{x: {{dtype: {name}}}}}\n    classes:"))
        spelled.append(settings.ensembles["toy"].inputs["x"].wire_dtype)
    assert tuple(spelled) == DTYPES


def test_paths_are_relative_to_the_file(read, tmp_path):
    assert read("auth: {keys_file: k}\n" + MINIMAL).auth.keys_file == tmp_path / "k"
    toy = read(MINIMAL).ensembles["toy"]
    assert [teacher.model for teacher in toy.teachers] == [
        tmp_path / "one.onnx",
        tmp_path / "deep" / "two.onnx",
    ]


def test_classes_from_a_file(read, tmp_path):
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert read(MINIMAL, ("[a, b]", "{file: classes.txt}")).ensembles["toy"].classes == ("a", "b")
    assert "none.txt" in refused(read, ("[a, b]", "{file: none.txt}"))


def test_the_environment_overrides_the_file(read, monkeypatch):
    monkeypatch.setenv("SOFT_TARGETS__SERVER__PORT", "9000")
    monkeypatch.setenv("SOFT_TARGETS__LIMITS__MAX_BODY_BYTES", "2MiB")
    monkeypatch.setenv("SOFT_TARGETS__AUTH__OPEN", "true")
    monkeypatch.setenv("SOFT_TARGETS_TEST_NO_SKIP", "1")  # another prefix, none of ours
    settings = read("server: {port: 1, host: 127.0.0.9}\n" + MINIMAL)
    assert (settings.server.port, settings.server.host) == (9000, "127.0.0.9")
    assert settings.limits.max_body_bytes == 2 * 2**20
    assert settings.auth.open


def test_a_variable_of_an_impossible_value_is_named(read, monkeypatch):
    monkeypatch.setenv("SOFT_TARGETS__SERVER__PORT", "abc")
    with pytest.raises(ConfigError, match=r"\(with SOFT_TARGETS__SERVER__PORT set\): server\.port"):
        read(MINIMAL)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("SOFT_TARGETS__SERVR__PORT", "unknown key; did you mean 'server'?"),
        ("SOFT_TARGETS__SERVER__PROT", "did you mean 'port'?"),
    ],
)
def test_an_unknown_variable_is_refused(read, monkeypatch, variable, said):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigError, match=re.escape(said)):
        read(MINIMAL)


LATER = {
    "server": ["workers: 2", "metrics_port: 9", "state_dir: x", "replicated: true", "spread_limit: 1"],
    "limits": ["max_rows_in_flight: 1", "max_bytes_in_flight: 1", "drain_s: 1", "max_decompressed_bytes: 1",
               "max_json_depth: 1", "max_header_bytes: 1", "slow_reader_s: 1", "rows_per_s_per_key: 1",
               "rows_in_flight_per_key: 1"],
    "cache": ["password_file: x", "l1_bytes: 1", "opinions: off", "opinions_max_classes: 1",
              "call_timeout_ms: 1", "breaker: {failures: 1}", "lease: off"],
}  # fmt: skip


@pytest.mark.parametrize(("section", "line"), [(s, line) for s, lines in LATER.items() for line in lines])
def test_a_key_whose_feature_comes_later_is_refused_by_name(read, section, line):
    message = refused(read, text=f"{section}: {{{line}}}\n{MINIMAL}")
    assert message == f"{section}: key '{line.split(':')[0]}' is not yet supported; leave it out"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ensembles:", "operators: {}\nensembles:", "key 'operators' is not yet supported"),
        ("classes:", "quorum: all\n    classes:", "ensembles.toy: key 'quorum' is not yet supported"),
        ("classes:", "unsafe_classes: []\n    classes:", "key 'unsafe_classes' is not yet supported"),
        ("classes:", "samples: x.npz\n    classes:", "key 'samples' is not yet supported"),
        ("classes:", "teacher_timeout_s: 1\n    classes:", "key 'teacher_timeout_s' is not yet supported"),
        ("classes:", "teacher_error_rate: 1\n    classes:", "key 'teacher_error_rate' is not yet supported"),
        ("classes:", "device_memory: 1\n    classes:", "key 'device_memory' is not yet supported"),
        ("classes:", "device: cuda:1\n    classes:", "device 'cuda:1' is not yet supported; use cpu"),
        (
            "classes:",
            "batching: {in_flight: 2}\n    classes:",
            "batching: key 'in_flight' is not yet supported",
        ),
        ("classes:", "batching: {threads: 2}\n    classes:", "batching: key 'threads' is not yet supported"),
        ("weight: 3", "weight: 3, device: cpu", "teachers.1: key 'device' is not yet supported"),
        ("weight: 3", "weight: 3, allow_cpu: true", "key 'allow_cpu' is not yet supported"),
        ("weight: 3", "revision: a", "key 'revision' is not yet supported"),
        ("deep/two.onnx", "kserve+http://h/m", "a teacher at 'kserve+http://h/m' is not yet supported"),
        (
            "operator: linear",
            "operator: linear, profile: strict",
            "recipes.default: key 'profile' is not yet",
        ),
        ("operator: linear", "operator: linear, accept_violations: []", "key 'accept_violations' is not yet"),
        ("operator: linear", "operator: linear, diagnostics: true", "key 'diagnostics' is not yet supported"),
        ("operator: linear", "operator: {import: 'm:f'}", "an operator by 'import' is not yet supported"),
    ],
)
def test_a_value_whose_feature_comes_later_is_refused_by_name(read, old, new, said):
    assert said in refused(read, (old, new))


@pytest.mark.parametrize("url", ["redis://h:6379/0", "rediss://h", "lmdb:///x", "unix:///s"])
def test_a_cache_that_comes_later_is_refused(read, url):
    assert "not yet supported" in refused(read, text=f"cache: {{url: '{url}'}}\n{MINIMAL}")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("ensembles:", "ensmbles:", "unknown key 'ensmbles'; did you mean 'ensembles'?"),
        ("classes:", "clases:", "ensembles.toy: unknown key 'clases'; did you mean 'classes'?"),
        ("weight: 3", "wieght: 3", "ensembles.toy.teachers.1: unknown key 'wieght'; did you mean 'weight'?"),
        ("kind: logits", "kind: logit", "ensembles.toy.teachers.0.output.kind: Input should be 'logits'"),
        ("kind: logits", "kind: logit", "not 'logit'"),
        ("weight: 3", "classes: [{a: null}, {b: null}], missing: floor", "drops every class of its own"),
        ("[a, b]", "[0, 1]", '0 is not text: write "0" with quotes'),
        ("[a, b]", "[true, b]", 'true is not text: write "true" with quotes'),
        ("[a, b]", "[a, a]", "class 'a' stands twice"),
        ("[a, b]", "[a]", "at least 2 items"),
        ("[a, b]", "[a, '']", "an empty text names nothing"),
        ("name: two", "name: one", "teacher 'one' stands twice"),
        ("name: two", "name: -two", "'-two' is no name"),
        ("weight: 3", "weight: -1", "greater than or equal to 0"),
        ("weight: 3", "weight: .nan", "finite number"),
        ("weight: 3", "weight: true", "true is not a number"),
        ("weight: 3", "temperature: 0", "greater than 0"),
        ("weight: 3", "classes: [a, c]", "teacher 'two': classes unknown to the ensemble: 'c'"),
        ("weight: 3", "classes: [a, {x: y}]", "teacher 'two': classes unknown to the ensemble: 'y'"),
        ("weight: 3", "classes: [a]", "teacher 'two': lacks the ensemble's classes 'b'"),
        ("weight: 3", "classes: [a, b, b]", "teacher 'two': class 'b' stands twice"),
        ("weight: 3", "classes: [a, 7]", '7 is not text: write "7" with quotes'),
        ("weight: 3", "classes: [a, {x: a, y: b}]", "must map one class of the teacher"),
        ("weight: 3", "missing: drop", "missing: Input should be 'floor'"),
        ("operator: linear", "operator: linear, temperature: 0.09", "greater than or equal to 0.1"),
        ("operator: linear", "operator: linear, temperature: 101", "less than or equal to 100"),
        ("operator: linear", "operator: linear, floor: 0", "greater than 0"),
        ("operator: linear", "operator: linear, floor: 1", "less than 1"),
        ("operator: linear", "operator: linear, sparsity: {top_k: 3}", "top_k 3 exceeds the 2 classes"),
        ("operator: linear", "operator: linear, sparsity: {top_k: 0}", "greater than or equal to 1"),
        ("operator: linear", "operator: linear, sparsity: {}", "Field required"),
        ("operator: linear", "operator: linear, weights: {three: 1}", "unknown teacher 'three'"),
        ("operator: linear", "operator: linear, weights: {one: 0}", "at least one weight must be positive"),
        ("operator: linear", "operator: linear, weights: {one: -1, two: 2}", "the weight of 'one' is -1"),
        ("operator: linear", "operator: linear, output_temperature: 2, temperature: 2", "set temperature: 1"),
        ("operator: linear", "operator: {exponent: 1}", "an operator needs a name"),
        ("operator: linear", "operator: [linear]", "is no operator"),
        (
            "ensembles:",
            "server: {port: 70000}\nensembles:",
            "server.port: Input should be less than or equal",
        ),
        (
            "ensembles:",
            "auth: {open: true, keys_file: k}\nensembles:",
            "auth: open: true is for a server without",
        ),
        ("ensembles:", "auth: {opne: true}\nensembles:", "auth: unknown key 'opne'; did you mean 'open'?"),
        ("ensembles:", "auth: {open: maybe}\nensembles:", "auth.open"),
        ("ensembles:", "limits: {max_body_bytes: 0}\nensembles:", "limits.max_body_bytes"),
        ("ensembles:", "limits: {max_body_bytes: many}\nensembles:", "limits.max_body_bytes"),
        ("ensembles:", "cache: {url: 'memory://?max_bytes=few'}\nensembles:", "is no size"),
        ("ensembles:", "cache: {url: 'memory://?maxbytes=1KiB'}\nensembles:", "is no cache URL"),
        ("ensembles:", "cache: {url: 'http://x'}\nensembles:", "is no cache URL"),
        ("ensembles:", "cache: {ttl_s: 0}\nensembles:", "cache.ttl_s"),
        ("classes:", "inputs: {x: {dtype: f4}}\n    classes:", "inputs.x.dtype"),
        ("classes:", "inputs: {x: {dtype: float32, shape: [0]}}\n    classes:", "greater than 0"),
        ("classes:", "inputs: {x: {dtype: utf8, shape: [2]}}\n    classes:", "leave its shape out"),
        ("classes:", "batching: {max_rows: 0}\n    classes:", "batching.max_rows"),
    ],
)
def test_what_cannot_be_meant_is_refused(read, old, new, said):
    assert said in refused(read, (old, new))


def test_every_finding_is_told_at_once(read):
    message = refused(read, ("weight: 3", "wieght: 3"), ("operator: linear", "operator: linear, floor: 2"))
    assert "wieght" in message
    assert "floor" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is not YAML"),
        ("a: 1\na: 2", 'found duplicate key "a" with value'),
        ("", "holds no configuration"),
        ("- 1", "holds no configuration"),
        ("ensembles: {}", "at least 1 item"),
        ("server: {port: 1}", "ensembles: Field required"),
    ],
)
def test_a_file_that_is_no_configuration(read, text, said):
    assert said in refused(read, text=text)


def test_a_file_that_is_not_there():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load(Path("nowhere.yaml"))


def test_settings_are_frozen(read):
    settings = read(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        settings.server = None
    assert isinstance(settings, Settings)
