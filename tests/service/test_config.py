import contextlib
import math
import os
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
    for variable in list(os.environ):
        if variable.upper().startswith("SOFT_TARGETS__"):
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
    cache = settings.cache
    assert (cache.memory_bytes, cache.ttl_s, cache.l1_bytes) == (512 * 2**20, 604_800, 64 * 2**20)
    assert (cache.password_file, cache.call_timeout_ms) == (None, 50)
    assert (cache.breaker.failures, cache.breaker.retry_s) == (3, 5)
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


def test_tens_of_thousands_of_classes_are_read(read, tmp_path):
    (tmp_path / "classes.txt").write_text("".join(f"class {number}\n" for number in range(32_000)))
    settings = read(MINIMAL, ("classes: [a, b]", "classes: {file: classes.txt}"))
    assert len(settings.ensembles["toy"].classes) == 32_000


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
        ("soft_targets__servr__port", "unknown key; did you mean 'server'?"),
        ("SOFT_TARGETS__", "unknown key"),
    ],
)
def test_an_unknown_variable_is_refused(read, monkeypatch, variable, said):
    monkeypatch.setenv(variable, "1")
    with pytest.raises(ConfigError, match=re.escape(said)):
        read(MINIMAL)


DEFAULT = "ENSEMBLES__TOY__RECIPES__DEFAULT"


def toy(settings):
    return settings.ensembles["toy"]


def recipe(settings, name="default"):
    return toy(settings).recipe(name)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SERVER", '{"port": 7}', lambda s: (s.server.port, s.server.host) == (7, "::1")),
        ("ENSEMBLES__TOY__CLASSES", '["x", "y"]', lambda s: toy(s).classes == ("x", "y")),
        ("ENSEMBLES__TOY__BATCHING__MAX_ROWS", "9", lambda s: toy(s).batching.max_rows == 9),
        ("ENSEMBLES__TOY__DEVICE", "cpu", lambda s: toy(s).device == "cpu"),
        (f"{DEFAULT}__OPERATOR", '"geometric"', lambda s: recipe(s).operator == OperatorSpec("geometric")),
        (
            f"{DEFAULT}__OPERATOR__NAME",
            "geometric",
            lambda s: recipe(s).operator == OperatorSpec("geometric"),
        ),
        (
            f"{DEFAULT}__OPERATOR",
            '{"name": "holder", "exponent": 0.5}',
            lambda s: recipe(s).operator == OperatorSpec("holder", (("exponent", 0.5),)),
        ),
        (f"{DEFAULT}__WEIGHTS__ONE", "2", lambda s: recipe(s).weights == (1, 0)),
        (
            "ENSEMBLES__TOY__RECIPES__WARM",
            '{"operator": "linear", "temperature": 3}',
            lambda s: recipe(s, "warm").temperature == 3,
        ),
        (
            "ENSEMBLES__TOY__TEACHERS",
            '[{"name": "uno", "model": "m", "output": {"kind": "probs"}}]',
            lambda s: [teacher.name for teacher in toy(s).teachers] == ["uno"],
        ),
    ],
)
def test_sections_and_lists_are_set_whole_as_json(read, monkeypatch, variable, value, expected):
    monkeypatch.setenv(f"SOFT_TARGETS__{variable}", value)
    assert expected(read('server: {host: "::1"}\n' + MINIMAL))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        (
            "SERVER",
            "x",
            "environment variable SOFT_TARGETS__SERVER: what is more than one value is set as JSON: ",
        ),
        (
            "ENSEMBLES__TOY__CLASSES",
            "[a",
            "environment variable SOFT_TARGETS__ENSEMBLES__TOY__CLASSES: what is more",
        ),
        (
            "ENSEMBLES__TOY__TEACHERS__0__WEIGHT",
            "2",
            "__TEACHERS__0__WEIGHT: 'teachers' is a list, which is set whole: as JSON in SOFT_TARGETS__ENS",
        ),
        (
            "ENSEMBLES__BIG__DEVICE",
            "cpu",
            "SOFT_TARGETS__ENSEMBLES__BIG__DEVICE: 'Big' has capitals, which a variable cannot say; set it",
        ),
        (
            "ENSEMBLES__NONE__DEVICE",
            "cpu",
            "with SOFT_TARGETS__ENSEMBLES__NONE__DEVICE set): ensembles.none.classes",
        ),
        ("SERVER__PORT__X", "1", "with SOFT_TARGETS__SERVER__PORT__X set): server.port"),
    ],
)
def test_a_variable_that_can_set_nothing_is_named(read, monkeypatch, variable, value, said):
    monkeypatch.setenv(f"SOFT_TARGETS__{variable}", value)
    with pytest.raises(ConfigError) as caught:
        read(MINIMAL + MINIMAL.split("\n", 1)[1].replace("toy:", "Big:"))
    assert said in str(caught.value)


LATER = {
    "server": ["replicated: true"],
    "cache": ["lease: off"],
}  # fmt: skip


@pytest.mark.parametrize(("section", "line"), [(s, line) for s, lines in LATER.items() for line in lines])
def test_a_key_whose_feature_comes_later_is_refused_by_name(read, section, line):
    message = refused(read, text=f"{section}: {{{line}}}\n{MINIMAL}")
    assert message == f"{section}: key '{line.split(':')[0]}' is not yet supported; leave it out"


def test_unsafe_classes_and_samples(read, tmp_path):
    toy = read(MINIMAL, ("classes:", "unsafe_classes: [b]\n    samples: few.npz\n    classes:")).ensembles[
        "toy"
    ]
    assert (toy.unsafe_classes, toy.unsafe_indices) == (("b",), (1,))
    assert toy.samples == tmp_path / "few.npz"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("[bb]", "unsafe_classes: 'bb' is no class; did you mean 'b'?"),
        ("[a, a]", "unsafe class 'a' stands twice"),
        ("[1]", 'write "1" with quotes'),
    ],
)
def test_unsafe_classes_are_classes(read, given, said):
    assert said in refused(read, ("classes:", f"unsafe_classes: {given}\n    classes:"))


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
        ("[a, b]", "[a]", "classes: holds too little; 2 are needed at least"),
        ("[a, b]", "[a, '']", "an empty text names nothing"),
        ("name: two", "name: one", "teacher 'one' stands twice"),
        ("name: two", "name: -two", "'-two' is no name"),
        ("weight: 3", "weight: -1", "greater than or equal to 0"),
        ("weight: 3", "weight: .nan", "finite number"),
        ("weight: 3", "weight: true", "true is not a number"),
        ("weight: 3", "temperature: 0.009", "greater than or equal to 0.01"),
        ("weight: 3", "temperature: 1e39", "less than or equal to 100"),
        ("weight: 3", "classes: [a, c]", "teacher 'two': classes unknown to the ensemble: 'c'"),
        ("weight: 3", "classes: [a, {x: y}]", "teacher 'two': classes unknown to the ensemble: 'y'"),
        ("weight: 3", "classes: [a]", "teacher 'two': lacks the ensemble's classes 'b'"),
        ("weight: 3", "classes: [a, b, b]", "teacher 'two': class 'b' stands twice"),
        ("weight: 3", "classes: [a, 7]", '7 is not text: write "7" with quotes'),
        ("weight: 3", "classes: [a, {x: a, y: b}]", "must map one class of the teacher"),
        ("weight: 3", "missing: drop", "missing: Input should be 'floor'"),
        ("operator: linear", "operator: linear, temperature: 0.09", "greater than or equal to 0.1"),
        ("operator: linear", "operator: linear, temperature: 101", "less than or equal to 100"),
        ("operator: linear", "operator: linear, output_temperature: 1e-46", "greater than or equal to 0.01"),
        ("operator: linear", "operator: linear, output_temperature: 101", "less than or equal to 100"),
        ("operator: linear", "operator: linear, floor: 0", "greater than 0"),
        (
            "operator: linear",
            "operator: linear, floor: 5e-324",
            "floor 5e-324 is too small: it goes to 2 classes",
        ),
        ("operator: linear", "operator: linear, floor: 1", "less than 1"),
        ("operator: linear", "operator: linear, sparsity: {top_k: 3}", "top_k 3 exceeds the 2 classes"),
        ("operator: linear", "operator: linear, sparsity: {top_k: 0}", "greater than or equal to 1"),
        ("operator: linear", "operator: linear, sparsity: {}", "sparsity.top_k: is missing"),
        ("operator: linear", "operator: linear, weights: {three: 1}", "unknown teacher 'three'"),
        ("operator: linear", "operator: linear, weights: {one: 0}", "at least one weight must be positive"),
        ("operator: linear", "operator: linear, weights: {}", "at least one weight must be positive"),
        ("operator: linear", "operator: linear, weights: {one: -1, two: 2}", "the weight of 'one' is -1"),
        ("operator: linear", "operator: linear, output_temperature: 2, temperature: 2", "set temperature: 1"),
        ("operator: linear", "operator: {exponent: 1}", "an operator needs a name"),
        ("operator: linear", "operator: [linear]", "is no operator"),
        ("operator: linear", "operator: {name: holder, exponent: [0.5]}", "parameter 'exponent' is [0.5]"),
        ("operator: linear", "operator: {name: holder, exponent: null}", "parameter 'exponent' is None"),
        ("operator: linear", "operator: {name: holder, exponent: .nan}", "parameter 'exponent' is nan"),
        ("operator: linear", "operator: {name: holder, 1: 2, exponent: 1}", "1 is not text: write"),
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
        ("ensembles:", "limits: {max_json_depth: 0}\nensembles:", "limits.max_json_depth"),
        ("ensembles:", "limits: {max_json_depth: 201}\nensembles:", "limits.max_json_depth"),
        ("ensembles:", "cache: {url: 'memory://?max_bytes=few'}\nensembles:", "is no size"),
        ("ensembles:", "cache: {url: 'memory://?maxbytes=1KiB'}\nensembles:", "is no cache URL"),
        ("ensembles:", "cache: {url: 'http://x'}\nensembles:", "is no cache URL"),
        ("ensembles:", "cache: {ttl_s: 0}\nensembles:", "cache.ttl_s"),
        ("classes:", "inputs: {x: {dtype: f4}}\n    classes:", "inputs.x.dtype"),
        ("classes:", "inputs: {x: {dtype: float32, shape: [0]}}\n    classes:", "greater than 0"),
        ("classes:", "inputs: {x: {dtype: utf8, shape: [2]}}\n    classes:", "leave its shape out"),
        ("classes:", "inputs: {row_id: {dtype: float32}}\n    classes:", "'row_id' is a column of its own"),
        ("classes:", "inputs: {digest: {dtype: float32}}\n    classes:", "'digest' is a column of its own"),
        ("weight: 3", "inputs: {x: row_id}", "'row_id' is a column of its own"),
        ("classes:", "batching: {max_rows: 0}\n    classes:", "batching.max_rows"),
        (
            "classes:",
            "batching: {threads: 0}\n    classes:",
            "batching.threads: 0 is neither auto nor a whole number from 1",
        ),
        (
            "classes:",
            "batching: {in_flight: many}\n    classes:",
            "in_flight: 'many' is neither auto nor a whole number from 1",
        ),
        ("classes:", "quorum: 0\n    classes:", "quorum: 0 is neither all nor a whole number from 1"),
        ("classes:", "quorum: true\n    classes:", "quorum: True is neither all nor a whole number from 1"),
        ("classes:", "quorum: 3\n    classes:", "quorum 3 exceeds the 2 teachers"),
        ("classes:", "teacher_timeout_s: 0\n    classes:", "teacher_timeout_s"),
        ("classes:", "teacher_error_rate: 2\n    classes:", "less than or equal to 1"),
        ("classes:", "device: gpu\n    classes:", "'gpu' is no device: write auto, cpu, cuda or cuda:1"),
        ("classes:", "device_memory: 0\n    classes:", "device_memory"),
        ("weight: 3", "device: cuda:x", "'cuda:x' is no device"),
        ("weight: 3", "allow_cpu: maybe", "allow_cpu"),
        ("ensembles:", "server: {spread_limit: 0}\nensembles:", "server.spread_limit"),
        ("ensembles:", "1: 2\nensembles:", '1 is not text: write "1" with quotes'),
        ("ensembles:", "_env_file: x\nensembles:", "unknown key '_env_file'"),
        ("ensembles:", "_cli_parse_args: true\nensembles:", "unknown key '_cli_parse_args'"),
        ("ensembles:", "server: {1: 2}\nensembles:", '1 is not text: write "1" with quotes'),
        ("toy:", "1:", 'ensembles.1: 1 is not text: write "1" with quotes'),
        ("ensembles:", "server: {host: [}\nensembles:", "is not YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused(read, old, new, said):
    assert said in refused(read, (old, new))


ODD = [
    "null", "true", "[]", "{}", "''", '"\\0"', "-0.0", ".inf", ".nan", "1e-400", "1" + "0" * 400,
    "1" + "0" * 5000, "2024-13-45", "2024-01-01", "!!timestamp x", "!!int x", "!!binary x", "!!python/name x",
    "!x y", "{1: 2}", "{null: null}", "{[a]: b}", "{<<: 1}", "[[1, {2: 3}]]", "&a [*a]", "&a {b: *a}",
]  # fmt: skip
PLACES = [
    ("ensembles:", "{}: 1\nensembles:"),
    *(
        ("ensembles:", f"{key}: {{}}\nensembles:")
        for key in ("server", "limits", "auth", "cache", "operators")
    ),
    *(
        ("ensembles:", f"{section}: {{{{{key}: {{}}}}}}\nensembles:")
        for section, keys in {
            "server": ["host", "port"],
            "limits": [
                "max_body_bytes",
                "max_rows_per_request",
                "max_rows_in_flight",
                "max_bytes_in_flight",
                "request_timeout_s",
                "drain_s",
            ],
            "auth": ["keys_file", "open"],
            "cache": ["url", "ttl_s", "password_file", "l1_bytes", "call_timeout_ms", "breaker"],
        }.items()
        for key in keys
    ),
    ("toy:\n", "{}: 1\n  toy:\n"),
    ("[a, b]", "{}"),
    ("[a, b]", "[{}, a]"),
    ("[a, b]", "{{file: {}}}"),
    ("classes:", "device: {}\n    classes:"),
    ("classes:", "batching: {{max_rows: {}}}\n    classes:"),
    *(
        ("classes:", f"inputs: {inputs}\n    classes:")
        for inputs in (
            "{}",
            "{{{}: {{dtype: utf8}}}}",
            "{{x: {{dtype: {}}}}}",
            "{{x: {{dtype: bool, shape: {}}}}}",
        )
    ),
    ("one.onnx", "{}"),
    ("name: one", "name: {}"),
    ("{kind: logits}", "{}"),
    ("{kind: logits}", "{{kind: {}}}"),
    ("{kind: logits}", "{{kind: logits, name: {}}}"),
    *(("weight: 3", f"{key}: {{}}") for key in ("weight", "temperature", "classes", "inputs", "missing")),
    ("weight: 3", "classes: [{}, b]"),
    ("weight: 3", "classes: [{{{}: a}}, b]"),
    ("weight: 3", "inputs: {{x: {}}}"),
    ("{operator: linear}", "{}"),
    ("default:", "{}:"),
    ("linear", "{}"),
    ("linear", "{{name: {}}}"),
    ("linear", "{{name: holder, exponent: {}}}"),
    ("linear", "{{name: holder, {}: 1}}"),
    *(
        ("operator: linear", f"operator: linear, {key}: {{}}")
        for key in ("temperature", "weights", "floor", "output_temperature", "sparsity")
    ),
    ("operator: linear", "operator: linear, weights: {{one: {}}}"),
    ("operator: linear", "operator: linear, weights: {{{}: 1}}"),
    ("operator: linear", "operator: linear, sparsity: {{top_k: {}}}"),
]


@pytest.mark.parametrize("value", ODD, ids=range(len(ODD)))
def test_no_value_anywhere_is_a_traceback(read, value):
    for old, new in PLACES:
        with contextlib.suppress(ConfigError):
            hash(str(read(MINIMAL, (old, new.format(value)))))


def test_what_looks_like_a_date_is_text(read):
    settings = read(MINIMAL, ("[a, b]", "[2024-01-01, 2024-13-45]"))
    assert settings.ensembles["toy"].classes == ("2024-01-01", "2024-13-45")
    assert read("server: {host: 2024-13-45}\n" + MINIMAL).server.host == "2024-13-45"


def test_a_floor_is_a_normal_float32_for_every_class(read):
    smallest = 2.0**-126
    for classes in (2, 3, 7, 10):
        names = ", ".join(map(str, "abcdefghij"[:classes]))
        said = refused(
            read,
            ("[a, b]", f"[{names}]"),
            ("linear", f"linear, floor: {classes * smallest * 0.999!r}"),
            text=MINIMAL,
        )
        assert f"it goes to {classes} classes" in said
        settings = read(
            MINIMAL, ("[a, b]", f"[{names}]"), ("linear", f"linear, floor: {classes * smallest!r}")
        )
        assert settings.ensembles["toy"].recipe("default").floor / classes == smallest


def test_a_weight_of_minus_zero_is_the_weight_zero(read):
    recipe = (
        read(MINIMAL, ("linear", "linear, weights: {one: -0.0, two: 1}")).ensembles["toy"].recipe("default")
    )
    assert [math.copysign(1, weight) for weight in recipe.weights] == [1, 1]


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
        ("ensembles: {}", "ensembles: is empty; name one at least"),
        ("server: {port: 1}", "ensembles: is missing; name one at least"),
        ("a: !!int x", "holds a value that cannot be read: invalid literal for int()"),
        pytest.param("[" * 1000, "holds a value that cannot be read: maximum recursion", id="deep"),
    ],
)
def test_a_file_that_is_no_configuration(read, text, said):
    assert said in refused(read, text=text)


TEACHERS = MINIMAL[MINIMAL.index("    teachers:") : MINIMAL.index("    recipes:")]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (", output: {kind: logits}", "", "teachers.0.output: is missing; say what it holds: {kind: logits}"),
        ("output: {kind: logits}", "output: {}", "teachers.0.output.kind: is missing; say what the output"),
        (TEACHERS, "    teachers: []\n", "ensembles.toy.teachers: is empty; name one at least: {name: NAME"),
        (TEACHERS, "", "ensembles.toy.teachers: is missing; name one at least: {name: NAME"),
        ("default: {operator: linear}", "{}", "ensembles.toy.recipes: is empty; name one at least"),
        (
            "ensembles:",
            "limits: {max_body_bytes: much}\nensembles:",
            "limits.max_body_bytes: is no size; write a number",
        ),
        ("ensembles:", "limits: 5\nensembles:", "limits: must be a section, keys with values, not a number"),
        ("  toy:", "  to/y:", "ensembles.to/y: 'to/y' is no name"),
        (
            "classes: [a, b]",
            "classes: {}",
            "name the classes' file as {file: classes.txt}, or the classes in",
        ),
        ("ensembles:", "server: {port: 80, metrics_port: 80}\nensembles:", "a port of their own"),
    ],
)
def test_a_finding_says_what_to_do_and_nothing_else(read, old, new, said):
    found = refused(read, (old, new))
    assert said in found
    assert len(found.splitlines()) == 1


def test_a_file_that_is_not_there():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load(Path("nowhere.yaml"))


def test_settings_are_frozen(read):
    settings = read(MINIMAL)
    with pytest.raises(ValueError, match="frozen"):
        settings.server = None
    assert isinstance(settings, Settings)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            "max_rows_in_flight: 4095",
            "max_rows_in_flight (4095) must be max_rows_per_request (4096) at least",
        ),
        ("max_bytes_in_flight: 1MiB", "max_bytes_in_flight (1048576) must be max_body_bytes (67108864)"),
    ],
)
def test_a_request_that_is_allowed_must_fit_when_it_is_alone(read, limits, said):
    assert said in refused(read, ("ensembles:", f"limits: {{{limits}}}\nensembles:"))
