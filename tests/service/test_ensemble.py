"""Loading an ensemble: inputs agreed or declared, teachers bound, recipes and their fingerprints."""

import re

import numpy as np
import onnx
import pytest
import teachers as models
from onnx import TensorProto, helper, numpy_helper

from service.config import load
from service.engine.engine import Engine
from service.engine.ensemble import Overrides
from service.errors import BadQuery, BadWeights, ConfigError, UnknownRecipe
from soft_targets.wire import TensorSpec


@pytest.fixture
def opened(tmp_path):
    engines = []

    def open_text(text, **edits):
        path = tmp_path / "ensembles.yaml"
        path.write_text(text.format(**edits) if edits else text)
        engines.append(Engine.open(load(path)))
        return next(iter(engines[-1].ensembles.values()))

    yield open_text
    for engine in engines:
        for ensemble in engine.ensembles.values():
            ensemble.close()


def simple(teachers, *, inputs="", classes="[a, b, c, d]", recipes="{default: {operator: linear}}"):
    lines = "\n".join(f"      - {{{teacher}}}" for teacher in teachers)
    head = f"ensembles:\n  toy:\n{inputs}    classes: {classes}\n    teachers:\n"
    return f"{head}{lines}\n    recipes: {recipes}\n"


ONE = "name: one, model: one.onnx, output: {kind: logits}"
TWO = "name: two, model: two.onnx, output: {kind: logits}"


def test_inputs_are_read_from_the_models_where_they_agree(opened, tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1)
    models.random_linear(tmp_path / "two.onnx", 2)
    ensemble = opened(simple([ONE, TWO]))
    assert ensemble.inputs == {"pixels": TensorSpec("<f4", (6,))}
    assert [member.feeds for member in ensemble.members] == [{"pixels": "pixels"}] * 2


def test_a_single_input_needs_no_mapping(opened, tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1)
    models.random_linear(tmp_path / "two.onnx", 2, input_name="X")
    ensemble = opened(simple([ONE, TWO], inputs="    inputs: {pixels: {dtype: float64, shape: [6]}}\n"))
    assert [member.feeds for member in ensemble.members] == [{"pixels": "pixels"}, {"X": "pixels"}]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({"features": 7}, "input 'pixels' is"),
        ({"input_name": "X"}, "the models name their inputs differently (one: pixels; two: X)"),
    ],
)
def test_models_that_do_not_agree_are_refused(opened, tmp_path, second, said):
    models.random_linear(tmp_path / "one.onnx", 1)
    models.random_linear(tmp_path / "two.onnx", 2, **second)
    with pytest.raises(ConfigError) as caught:
        opened(simple([ONE, TWO]))
    assert said in str(caught.value)
    assert "inputs" in str(caught.value)


def test_several_named_inputs_of_several_kinds(opened, tmp_path):
    models.two_inputs(tmp_path / "one.onnx")
    ensemble = opened(simple([ONE], classes="[a, b, c]"))
    assert ensemble.inputs == {
        "image": TensorSpec("<f4", (2, 3)),
        "number": TensorSpec("<i8", ()),
        "text": TensorSpec("utf8", ()),
    }
    image = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    inputs = {
        "image": image,
        "number": np.array([0, 1, 2, 3]),
        "text": np.array(["yes", "no", "", "yes"], dtype=object),
    }
    outcome = ensemble.plans.run(
        inputs,
        np.ones(4, np.float32),
        np.ones((1, 4), np.float32),
        ensemble.effective("default", Overrides()).pair,
    )
    scores = 2 * image.sum(axis=1) + inputs["number"][:, None] + np.array([1, 0, 0, 1])[:, None]
    np.testing.assert_allclose(outcome.log_probs, models.log_softmax(scores * [1, -1, 0.5]), atol=1e-5)


def test_inputs_are_mapped_and_cast_to_what_the_model_takes(opened, tmp_path):
    models.two_inputs(tmp_path / "one.onnx")
    inputs = (
        "    inputs: {picture: {dtype: uint8, shape: [2, 3]}, count: {dtype: uint16}, word: {dtype: utf8}}\n"
    )
    mapping = ONE + ", inputs: {image: picture, number: count, text: word}"
    ensemble = opened(simple([mapping], inputs=inputs, classes="[a, b, c]"))
    assert list(ensemble.inputs) == ["picture", "count", "word"]
    with pytest.raises(ConfigError, match="must map each of the model's inputs"):
        opened(simple([ONE + ", inputs: {image: picture}"], inputs=inputs, classes="[a, b, c]"))
    with pytest.raises(ConfigError, match="fed from 'nowhere', which is no input"):
        opened(simple([mapping.replace("word", "nowhere")], inputs=inputs, classes="[a, b, c]"))
    with pytest.raises(ConfigError, match="takes <i8, but the ensemble's <f4 cannot become that"):
        opened(simple([mapping], inputs=inputs.replace("uint16", "float32"), classes="[a, b, c]"))


def test_a_declared_input_that_no_teacher_reads_is_refused(opened, tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1)
    inputs = "    inputs: {{pixels: {{dtype: float32, shape: [6]}}, {}: {{dtype: utf8}}}}\n"
    with pytest.raises(ConfigError, match="ensemble 'toy': input 'note' is read by no teacher; leave it out"):
        opened(simple([ONE], inputs=inputs.format("note")))
    with pytest.raises(ConfigError, match="input 'pixels' is fed from 'pixels', which is no input"):
        opened(simple([ONE], inputs=inputs.format("note").replace("pixels", "picture")))
    models.two_inputs(tmp_path / "two.onnx")
    both = (
        "    inputs: {image: {dtype: float32, shape: [2, 3]}, number: {dtype: int64}, text: {dtype: utf8}}\n"
    )
    opened(simple([TWO], inputs=both, classes="[a, b, c]"))


@pytest.mark.parametrize(
    ("name", "said", "ours"),
    [
        ("input.1", "'input.1' is no name", "input_1"),
        ("row_id", "'row_id' is a column of its own", "rows"),
        ("digest", "'digest' is a column of its own", "rows"),
        ("/in/put:0", "'/in/put:0' is no name", "in_put_0"),
        ("::", "'::' is no name", "rows"),
    ],
)
def test_a_model_s_input_that_nobody_could_ask_by_name_is_refused_with_the_mapping(
    opened, tmp_path, name, said, ours
):
    models.random_linear(tmp_path / "one.onnx", 1, input_name=name)
    with pytest.raises(ConfigError) as caught:
        opened(simple([ONE]))
    assert said in str(caught.value)
    mapping = f'inputs: {{"{name}": {ours}}}'
    assert str(caught.value).startswith("ensemble 'toy': teacher 'one': ")
    assert mapping in str(caught.value)
    assert list(opened(simple([f"{ONE}, {mapping}"])).inputs) == [ours]
    opened(simple([ONE], inputs="    inputs: {pixels: {dtype: float32, shape: [6]}}\n"))


def test_a_model_without_inputs_is_refused(opened, tmp_path):
    models.save(
        tmp_path / "one.onnx",
        [helper.make_node("Identity", ["weight"], ["y"])],
        [],
        [("y", TensorProto.FLOAT, [1, 4])],
        [("weight", np.zeros((1, 4), np.float32))],
    )
    with pytest.raises(ConfigError, match=r"ensemble 'toy': teacher 'one': .*one\.onnx has no input"):
        opened(simple([ONE]))


def test_a_model_that_fails_while_it_is_tried_is_refused(opened, tmp_path):
    # One row at a time breaks its reshape, many do not.
    models.save(
        tmp_path / "one.onnx",
        [
            helper.make_node("Reshape", ["x", "shape"], ["pairs"]),
            helper.make_node("Reshape", ["pairs", "back"], ["y"]),
        ],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 4])],
        [("shape", np.array([-1, 2, 4])), ("back", np.array([-1, 4]))],
    )
    with pytest.raises(ConfigError, match="ensemble 'toy': teacher 'one' cannot answer a row"):
        opened(simple([ONE]))


def test_the_log_says_which_device_was_chosen(opened, tmp_path, capsys):
    models.random_linear(tmp_path / "one.onnx", 1)
    opened(simple([ONE]))
    assert "devices=['cpu']" in re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("operator", ["linear", "geometric"])
def test_the_extremes_that_are_allowed_make_valid_targets(opened, tmp_path, operator):
    models.random_linear(tmp_path / "one.onnx", 1)
    rows = {"pixels": np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)}
    for teacher in ("0.01", "100"):
        for recipe in (f"floor: {4 * 2.0**-126!r}", "floor: 0.9999999999999999", "output_temperature: 0.01",
                       "output_temperature: 100"):  # fmt: skip
            ensemble = opened(
                simple(
                    [f"{ONE}, temperature: {teacher}, missing: floor"],
                    recipes=f"{{default: {{operator: {operator}, {recipe}}}}}",
                )
            )
            pair = ensemble.effective("default", Overrides()).pair
            outcome = ensemble.plans.run(rows, np.ones(5, np.float32), np.ones((1, 5), np.float32), pair)
            assert outcome.valid.all()
            assert outcome.finite.all()
            np.testing.assert_allclose(np.exp(outcome.log_probs.astype(float)).sum(axis=1), 1, atol=1e-5)


def test_a_class_the_teacher_lacks_gets_the_floor(opened, tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1, classes=3)
    short = ONE + ", classes: [a, b, c], missing: floor"
    ensemble = opened(simple([short], recipes="{default: {operator: linear, floor: 0.02}}"))
    rows = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    outcome = ensemble.plans.run(
        {"pixels": rows}, np.ones(5, np.float32), np.ones((1, 5), np.float32),
        ensemble.effective("default", Overrides()).pair,
    )  # fmt: skip
    np.testing.assert_allclose(np.exp(outcome.log_probs[:, 3]), 0.02 / 4, rtol=1e-5)
    np.testing.assert_allclose(np.exp(outcome.log_probs).sum(axis=1), 1, rtol=1e-5)


def test_probabilities_too_small_for_float32_stay_positive(opened, tmp_path):
    models.linear(tmp_path / "one.onnx", np.zeros((6, 4)), np.array([0, -500, -600, 0]), kind="probs")
    ensemble = opened(simple(["name: one, model: one.onnx, output: {kind: probs}"]))
    outcome = ensemble.plans.run(
        {"pixels": np.zeros((1, 6), np.float32)}, np.ones(1, np.float32), np.ones((1, 1), np.float32),
        ensemble.effective("default", Overrides()).pair,
    )  # fmt: skip
    assert (np.exp(outcome.log_probs.astype(np.float64)) >= 2.0**-126 * (1 - 1e-5)).all()


def test_a_teacher_of_weight_zero_is_not_asked(opened, tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1)
    models.random_linear(tmp_path / "two.onnx", 2)
    ensemble = opened(simple([ONE, TWO]))
    ensemble.members[1].teacher.answer = None  # calling it would raise
    effective = ensemble.effective("default", Overrides(weights={"one": 2.0}))
    weights = np.repeat(np.array(effective.recipe.weights, np.float32)[:, None], 3, axis=1)
    rows = {"pixels": np.zeros((3, 6), np.float32)}
    outcome = ensemble.plans.run(rows, np.ones(3, np.float32), weights, effective.pair)
    assert outcome.valid.all()


@pytest.mark.parametrize(
    ("kind", "declared", "said"),
    [
        ("logits", "probs", "which is no distribution of kind 'probs'"),
        ("probs", "log_probs", "which is no distribution of kind 'log_probs'"),
        ("logits", "log_probs", "which is no distribution of kind 'log_probs'"),
        ("log_probs", "probs", "which is no distribution of kind 'probs'"),
    ],
)
def test_an_output_that_is_not_what_is_said_of_it_is_refused(opened, tmp_path, kind, declared, said):
    models.random_linear(tmp_path / "one.onnx", 1, kind=kind)
    with pytest.raises(ConfigError) as caught:
        opened(simple([f"name: one, model: one.onnx, output: {{kind: {declared}}}"]))
    assert said in str(caught.value)


def test_models_that_cannot_be_used_are_refused_by_name(opened, tmp_path):
    (tmp_path / "one.onnx").write_bytes(b"no model")
    with pytest.raises(ConfigError, match=r"ensemble 'toy': teacher 'one': .*one\.onnx is not an ONNX model"):
        opened(simple([ONE]))
    models.random_linear(tmp_path / "one.onnx", 1, classes=3)
    with pytest.raises(ConfigError, match="answers 3 classes, but 4 are named for it"):
        opened(simple([ONE]))
    models.save(
        tmp_path / "one.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.FLOAT, [1, 4])],
        [("y", TensorProto.FLOAT, [1, 4])],
    )
    with pytest.raises(ConfigError, match="export the model with a dynamic batch axis"):
        opened(simple([ONE]))
    models.save(
        tmp_path / "one.onnx",
        [helper.make_node("Identity", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])],
        [("x", TensorProto.FLOAT, ["batch", 4])],
        [("y", TensorProto.FLOAT, ["batch", 4]), ("z", TensorProto.FLOAT, ["batch", 4])],
    )
    with pytest.raises(ConfigError, match=r"say which output is meant .* it offers 'y'"):
        opened(simple([ONE]))
    with pytest.raises(ConfigError, match="no output 'w'; it offers 'y'"):
        opened(simple([ONE.replace("{kind", "{name: w, kind")]))


def external(path, location):
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)


def test_external_data_is_part_of_the_digest_and_confined_to_the_folder(opened, tmp_path):
    external(tmp_path / "one.onnx", "weights.bin")
    first = opened(simple([ONE])).effective("default", Overrides()).fingerprint
    data = bytearray((tmp_path / "weights.bin").read_bytes())
    data[-1] ^= 1
    (tmp_path / "weights.bin").write_bytes(data)
    assert opened(simple([ONE])).effective("default", Overrides()).fingerprint != first
    model = onnx.load(tmp_path / "one.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../weights.bin"
    (tmp_path / "one.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(
        ConfigError, match=r"external data '\.\./weights\.bin' is not a file beside the model"
    ):
        opened(simple([ONE]))


def test_a_fingerprint_changes_with_everything_that_changes_a_target(opened, tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1)
    models.random_linear(tmp_path / "two.onnx", 2)
    recipes = "{default: {operator: {name: holder, exponent: 0.5}}}"
    base = simple([ONE, TWO], recipes=recipes)

    def fingerprint(text, overrides=None):
        return opened(text).effective("default", overrides or Overrides()).fingerprint

    first = fingerprint(base)
    assert fingerprint(base) == first
    assert fingerprint(base.replace("toy:", "other:").replace("name: two", "name: deux")) == first
    edits = [
        ("[a, b, c, d]", "[b, a, c, d]"),
        ("name: two, ", "name: two, temperature: 2, "),
        ("name: two, ", "name: two, weight: 2, "),
        ("name: two, ", "name: two, classes: [a, b, d, c], "),
        ("exponent: 0.5", "exponent: 0.75"),
        ("{name: holder, exponent: 0.5}", "linear"),
        ("0.5}}}", "0.5}, temperature: 2}}"),
        ("0.5}}}", "0.5}, floor: 0.1}}"),
        ("0.5}}}", "0.5}, output_temperature: 2}}"),
        ("0.5}}}", "0.5}, sparsity: {top_k: 2}}}"),
        ("0.5}}}", "0.5}, diagnostics: true}}"),
    ]
    others = [fingerprint(base.replace(*edit)) for edit in edits]
    overrides = [Overrides(temperature=3.0), Overrides(weights={"one": 1.0}), Overrides(top_k=3)]
    overrides += [Overrides(dtype="float16"), Overrides(top_k=3, dtype="float16")]
    others += [fingerprint(base, one) for one in overrides]
    models.random_linear(tmp_path / "two.onnx", 3)
    others.append(fingerprint(base))
    assert len({first, *others}) == 1 + len(others)


def test_an_override_equal_to_the_recipe_has_its_fingerprint(opened, tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1)
    models.random_linear(tmp_path / "two.onnx", 2)
    ensemble = opened(simple([ONE, TWO], recipes="{default: {operator: linear, temperature: 2}}"))
    plain = ensemble.effective("default", Overrides())
    same = ensemble.effective(
        "default", Overrides(temperature=2.0, weights={"one": 5.0, "two": 5.0}, dtype="float32")
    )
    assert same.fingerprint == plain.fingerprint
    alone = [Overrides(weights={"one": 1.0}), Overrides(weights={"one": 1.0, "two": -0.0})]
    assert len({ensemble.effective("default", one).fingerprint for one in alone}) == 1


def test_impossible_overrides_are_refused(opened, tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1)
    recipes = "{sharp: {operator: linear, output_temperature: 0.5}}"
    ensemble = opened(simple([ONE], recipes=recipes))
    with pytest.raises(UnknownRecipe, match=r"has no recipe 'default'.*ask for one by name"):
        ensemble.effective("default", Overrides())
    with pytest.raises(UnknownRecipe, match="did you mean 'sharp'"):
        ensemble.effective("shrap", Overrides())
    with pytest.raises(BadQuery, match="recalibrates targets at temperature 1 only"):
        ensemble.effective("sharp", Overrides(temperature=2.0))
    with pytest.raises(BadQuery, match="top_k is 5; this ensemble has 4 classes"):
        ensemble.effective("sharp", Overrides(top_k=5))
    with pytest.raises(BadWeights, match="unknown teacher 'two'"):
        ensemble.effective("sharp", Overrides(weights={"two": 1.0}))


def test_many_overrides_do_not_fill_the_memory(opened, tmp_path):
    models.random_linear(tmp_path / "one.onnx", 1)
    ensemble = opened(simple([ONE]))
    for step in range(3000):
        ensemble.effective("default", Overrides(temperature=1 + step / 1000))
    assert len(ensemble._known) <= 1024


def test_classes_in_another_order_than_the_model_s_own_labels_are_refused(opened, tmp_path):
    models.labelled(tmp_path / "one.onnx", ["b", "a", "d", "c"])
    probs = "name: one, model: one.onnx, output: {kind: probs}"
    with pytest.raises(ConfigError, match="its largest output is listed as") as caught:
        opened(simple([probs]))
    assert "in its own order" in str(caught.value)
    opened(simple([probs + ", classes: [b, a, d, c]"]))
    opened(
        simple([probs + ", classes: [{x: b}, {y: a}, {z: d}, {w: c}]"])
    )  # names of its own: nothing to hold against


def test_a_map_of_probabilities_is_taken_for_the_probabilities(opened, tmp_path):
    models.zipmap(tmp_path / "one.onnx")
    for output in ("{kind: probs}", "{name: probabilities, kind: probs}"):
        opened(simple([f"name: one, model: one.onnx, output: {output}"]))
    with pytest.raises(ConfigError, match="the model's own order of classes is 'a', 'b', 'c', 'd'"):
        opened(simple(["name: one, model: one.onnx, output: {kind: probs}, classes: [b, a, c, d]"]))


def test_logits_that_look_like_probabilities_are_warned_of(opened, tmp_path, capsys):
    models.random_linear(tmp_path / "one.onnx", 1, kind="probs")
    opened(simple([ONE]))
    assert "is this output kind probs?" in capsys.readouterr().out
