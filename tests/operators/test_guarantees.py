"""Which figure is a theorem for whom, what refuses to be one, and the rows at the edges of the simplex."""

import math

import numpy as np
import pytest

import operators.guarantees
from operators import BUILTIN, InvalidParameter, geometric, holder, linear, make
from operators.guarantees import InvalidBatch, Quantity, gather, guarantees
from operators.simplex import log_softmax

POWERS = {
    "linear": linear(),
    "geometric": geometric(),
    **{f"holder {r:g}": holder(exponent=r) for r in (-2, -1, 0, 0.05, 0.5, 1, 1.5, 2)},
}
HOLDS_FOR = {  # which power means each theorem about the pool is for
    "log_loss": lambda r: 0 <= r <= 1,
    "log_loss_every_label_worst_excess": lambda r: 0 <= r <= 1,
    "each_teacher_every_label_worst_excess": lambda r: r == 1,
    "log_loss_against_each_teacher": lambda r: r == 1,
    "log_loss_against_worst_teacher": lambda r: r <= 1,
    "oracle_log_loss": lambda r: r == 1,
    "expected_jensen_gap": lambda r: r == 1,
    "jensen_gap": lambda r: r == 1,
    "kl_ambiguity": lambda r: r == 0,
    "kl_ambiguity_residual": lambda r: r == 0,
    "brier_ambiguity": lambda r: r == 1,
    "brier": lambda r: r == 1,
    "brier_ambiguity_residual": lambda r: r == 1,
    "bias": lambda r: r == 1,
    "bias_attenuation": lambda r: r == 1,
    "unsafe_mass": lambda r: r == 1,
    "unsafe_ratio_to_mean": lambda r: r == 1,
    "unsafe_ratio_to_worst_teacher": lambda r: r == 1,
    "unsafe_rows_above_worst_teacher": lambda r: r == 1,
    "unsafe_certificate": lambda r: r <= 1,
    "unsafe_weighted_certificate": lambda r: r <= 1,
    "unsafe_normaliser": lambda r: r <= 1,
}
ABOUT_TEACHERS = {"diversity", "diversity_share", "forward_loss", "forward_loss_residual", "reverse_loss"}
NEVER = {
    "rows_judged",
    "best_teacher_log_loss",
    "top1_agreement",
    "effective_teachers",
    "bias_standard_error",
}


ODDS_INTERNAL = {"geometric", "holder", "trimmed_mean", "weighted_max"}


def rows(seed, *, teachers=3, count=200, classes=4, alpha=0.5):
    rng = np.random.default_rng(seed)
    p = np.maximum(rng.dirichlet(np.full(classes, alpha), (teachers, count)), 1e-12)
    weights = rng.dirichlet(np.ones(teachers), count).T
    return np.log(p / p.sum(axis=-1, keepdims=True)), weights, rng.integers(classes, size=count)


def exponent_of(operator):
    return {"linear": 1, "geometric": 0}.get(operator.name, dict(operator.parameters).get("exponent"))


def named(quantities):
    found = {quantity.name: quantity for quantity in quantities}
    assert len(found) == len(quantities), "a name came twice"
    return found


def report(operator, log_probs, weights, **options):
    pooled = operator.fuse(log_probs, weights)
    return named(guarantees(operator.name, operator.parameters, log_probs, weights, pooled, **options))


@pytest.mark.parametrize("operator", POWERS.values(), ids=POWERS)
def test_a_theorem_holds_and_is_claimed_for_exactly_those_it_is_proved_for(operator):
    log_probs, weights, labels = rows(1)
    for unsafe in ([0], [1, 3], [0, 1, 2, 3]):
        found = report(operator, log_probs, weights, labels=labels, unsafe=unsafe)
        for name, proved in HOLDS_FOR.items():
            assert found[name].theorem == proved(exponent_of(operator)), name
        assert all(found[name].theorem for name in ABOUT_TEACHERS)
        assert not any(found[name].theorem for name in NEVER)
        broken = [name for name, q in found.items() if q.theorem and q.holds is False]
        assert not broken


@pytest.mark.parametrize("operator", POWERS.values(), ids=POWERS)
def test_worst_rows_and_residuals_stand_as_their_means_do(operator):
    found = report(operator, *rows(2)[:2], labels=rows(2)[2], unsafe=[0])
    for name, quantity in found.items():
        for suffix in ("_worst_excess", "_residual"):
            base = found.get(name.removesuffix(suffix))
            if name.endswith(suffix) and base is not None:
                assert (quantity.theorem, quantity.conditions) == (base.theorem, base.conditions)
                assert quantity.bound == 0


@pytest.mark.parametrize(
    ("operator", "broken"),
    [
        (
            geometric(),
            {
                "each_teacher_every_label_worst_excess",
                "unsafe_rows_above_worst_teacher",
                "brier_ambiguity_residual",
            },
        ),
        (holder(exponent=0.5), {"unsafe_rows_above_worst_teacher", "unsafe_mass"}),
        (holder(exponent=2), {"log_loss", "log_loss_against_worst_teacher", "unsafe_certificate"}),
        (holder(exponent=-1), {"log_loss_every_label_worst_excess", "oracle_log_loss"}),
        (linear(), {"kl_ambiguity_residual"}),
    ],
    ids=["geometric", "half", "two", "harmonic", "linear"],
)
def test_what_is_called_a_measurement_is_indeed_broken_on_some_rows(operator, broken):
    """The refusals are not caution: each of these is false for the operator, and the report shows it."""
    log_probs, weights, labels = rows(3, count=3000, alpha=0.3)
    found = report(operator, log_probs, weights, labels=labels, unsafe=[0, 1])
    for name in broken:
        worst = found.get(f"{name}_worst_excess", found[name])
        assert found[name].holds is False, name
        assert worst.value > worst.bound
        assert not found[name].theorem
        assert operator.name in found[name].conditions
        assert found[name].conditions.endswith("reported as a measurement only.")


def test_prop_5_fails_outside_zero_to_one_on_the_rows_of_its_proof():
    """r > 1: all agree on the label and not elsewhere. r < 0: one teacher all but vetoes the label."""
    agreeing = np.log([[[0.2, 0.6, 0.2]], [[0.2, 0.2, 0.6]]])
    vetoing = np.log([[[1e-9, 1 - 1e-9]], [[0.5, 0.5]]])
    for exponent, log_probs in ((1.05, agreeing), (2, agreeing), (-0.5, vetoing), (-2, vetoing)):
        found = report(holder(exponent=exponent), log_probs, np.full((2, 1), 0.5), labels=[0])
        assert found["log_loss"].value > found["log_loss"].bound + 1e-3
        assert found["log_loss"].holds is False
        # The same shortfall, seen as a gap below 0: however much room the upper bound leaves.
        assert found["jensen_gap"].value < 0
        assert found["jensen_gap"].holds is False
        assert found["jensen_gap_worst_excess"].value == pytest.approx(-found["jensen_gap"].value)
    found = report(geometric(), vetoing, np.full((2, 1), 0.5), labels=[0])
    assert found["log_loss"].holds


def test_an_unknown_operator_gets_measurements_and_no_theorem_about_its_pool():
    log_probs, weights, labels = rows(4)
    pooled = linear().fuse(log_probs, weights)
    found = named(
        guarantees("mine:pool", {"depth": 3}, log_probs, weights, pooled, labels=labels, unsafe=[0])
    )
    claimed = {name for name, quantity in found.items() if quantity.theorem}
    assert claimed == {name for name in found if name.split("_")[0] in ("diversity", "forward", "reverse")}
    assert found["log_loss"].holds
    assert "mine:pool(depth=3)" in found["log_loss"].conditions
    assert "unsafe_certificate" not in found
    assert found["linear_separable"].value == 0


def test_a_pool_that_is_not_the_named_operator_s_answer_gets_no_theorem():
    log_probs, weights, labels = rows(5)
    sharpened = log_softmax(2 * linear().fuse(log_probs, weights))
    found = named(guarantees("linear", {}, log_probs, weights, sharpened, labels=labels, unsafe=[0]))
    assert not found["log_loss"].theorem
    assert "not its own answer" in found["log_loss"].conditions
    assert found["log_loss_every_label_worst_excess"].holds is False
    assert found["diversity"].theorem


def test_a_pool_that_differs_in_a_tiny_class_alone_gets_no_theorem():
    log_probs = np.log([[[0.5, 0.5, 1e-30]], [[0.4, 0.6, 1e-30]]])
    weights = np.full((2, 1), 0.5)
    pooled = linear().fuse(log_probs, weights)
    pooled[0, 2] = -np.inf
    found = named(guarantees("linear", {}, log_probs, weights, pooled))
    assert not found["log_loss_every_label_worst_excess"].theorem


def test_the_safety_example():
    log_probs = np.log([[[0.40, 0.58, 0.02]], [[0.40, 0.02, 0.58]]])
    weights = np.full((2, 1), 0.5)
    found = report(geometric(), log_probs, weights, unsafe=[0])
    assert found["unsafe_mass"].value == pytest.approx(0.65, abs=5e-5)
    assert found["unsafe_mass"].bound == pytest.approx(0.40)
    assert found["unsafe_rows_above_worst_teacher"][1:5] == (1, 0, False, False)
    assert found["unsafe_ratio_to_worst_teacher"].value == pytest.approx(1.625, abs=1e-4)
    assert found["unsafe_normaliser"].value == pytest.approx(0.6154, abs=5e-5)
    assert found["unsafe_certificate"].bound == pytest.approx(0.65, abs=5e-5)
    assert found["unsafe_certificate"].holds
    assert found["unsafe_certificate"].theorem
    found = report(linear(), log_probs, weights, unsafe=[0])
    assert found["unsafe_mass"].value == pytest.approx(0.40)
    assert found["unsafe_rows_above_worst_teacher"][1:5] == (0, 0, True, True)


@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_operator_is_reported_and_no_theorem_breaks(name):
    operator = make(name)
    log_probs, weights, labels = rows(6, count=20)
    found = report(operator, log_probs, weights, labels=labels, unsafe=[1])
    assert not [name for name, q in found.items() if q.theorem and q.holds is False]
    in_hull = operator.name in ("entropy_weighted", "inverse_entropy", "l2_median", "linear")
    assert found["unsafe_rows_above_worst_teacher"].theorem == in_hull
    assert found["oracle_log_loss"].theorem == in_hull
    assert found["diameter"].theorem == (in_hull or name in ODDS_INTERNAL)


def test_labels_add_quantities_and_unknown_ones_are_left_out():
    log_probs, weights, labels = rows(7, count=10)
    without = report(linear(), log_probs, weights)
    unknown = report(linear(), log_probs, weights, labels=np.full(10, -1))
    assert without == unknown
    assert "log_loss" not in without
    assert "bias" not in without
    partly = np.where(np.arange(10) < 4, labels, -1)
    found = report(linear(), log_probs, weights, labels=partly)
    alone = report(linear(), log_probs[:, :4], weights[:, :4], labels=labels[:4])
    for name in ("log_loss", "jensen_gap", "brier", "bias", "bias_standard_error", "best_teacher_log_loss"):
        assert found[name].value == pytest.approx(alone[name].value, abs=1e-12)
    assert set(without) < set(found)


@pytest.mark.parametrize("operator", POWERS.values(), ids=POWERS)
def test_a_teacher_of_weight_zero_is_absent_whatever_it_holds(operator):
    log_probs, weights, labels = rows(8, count=30)
    for content in (np.nan, -np.inf, 5.0):
        more = np.concatenate([np.full((1, 30, 4), content), log_probs])
        shares = np.concatenate([np.zeros((1, 30)), weights])
        pooled = operator.fuse(log_probs, weights)
        options = {"labels": labels, "unsafe": [2]}
        found = guarantees(operator.name, operator.parameters, more, shares, pooled, **options)
        fewer = guarantees(operator.name, operator.parameters, log_probs, weights, pooled, **options)
        for one, other in zip(found, fewer, strict=True):
            assert one[0] == other[0]
            assert one.value == pytest.approx(other.value, abs=1e-9), one.name
            assert one[3:] == other[3:]


@pytest.mark.parametrize("operator", POWERS.values(), ids=POWERS)
def test_one_teacher_and_one_row(operator):
    log_probs = np.log([[[0.7, 0.2, 0.1]]])
    found = report(operator, log_probs, np.ones((1, 1)), labels=[1], unsafe=[0, 2])
    assert found["log_loss"].value == pytest.approx(math.log(5))
    assert found["log_loss"].bound == pytest.approx(math.log(5))
    assert found["diversity"].value == pytest.approx(0, abs=1e-12)
    assert found["diversity_share"].value == 0
    assert found["kl_ambiguity"].value == pytest.approx(0, abs=1e-12)
    assert found["diameter"].value == 0
    assert found["effective_teachers"].value == 1
    assert found["bias_standard_error"].value == math.inf
    assert all(q.holds for q in found.values() if q.bound is not None and q.holds is not None)


@pytest.mark.parametrize("exponent", [0.5, 1, 2])
def test_zeros_are_infinite_losses_and_no_accident(exponent):
    with np.errstate(divide="ignore"):
        log_probs = np.log([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]])
    for label in (0, 2):  # one teacher holds it impossible; both do
        found = report(holder(exponent=exponent), log_probs, np.full((2, 1), 0.5), labels=[label], unsafe=[2])
        assert not any(math.isnan(q.value) for q in found.values())
        assert not [name for name, q in found.items() if q.theorem and q.holds is False]
        assert found["log_loss"].bound == math.inf
        assert found["log_loss"].holds
        assert found["kl_ambiguity"].value == math.inf
        assert found["diversity"].value == pytest.approx(math.log(2))
        assert found["diversity_share"].value == pytest.approx(1)
        assert found["unsafe_mass"].value == 0
        assert found["diameter"].value == math.inf
        assert "reverse_loss" not in found  # there is no geometric pool
    assert found["jensen_gap"].value == 0


def test_a_veto_leaves_the_geometric_pool_its_guarantees():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[[0.5, 0.5, 0.0]], [[0.2, 0.3, 0.5]]])
    found = report(geometric(), log_probs, np.full((2, 1), 0.5), labels=[2], unsafe=[2])
    assert found["log_loss"].value == math.inf
    assert found["log_loss"].holds
    assert found["kl_ambiguity_residual"].holds
    assert found["kl_ambiguity"].theorem
    assert found["each_teacher_every_label_worst_excess"].value == math.inf


def test_rows_without_a_pool_are_left_out_and_counted():
    log_probs, weights, labels = rows(9, count=6)
    pooled = linear().fuse(log_probs, weights)
    broken = log_probs.copy()
    pooled[1], broken[0, 4] = np.nan, np.nan
    found = named(guarantees("linear", {}, broken, weights, pooled, labels=labels))
    assert (found["rows_judged"].value, found["rows_judged"].bound) == (4, 6)
    kept = [0, 2, 3, 5]
    alone = report(linear(), log_probs[:, kept], weights[:, kept], labels=labels[kept])
    assert found["log_loss"].value == pytest.approx(alone["log_loss"].value)
    (only,) = guarantees("linear", {}, broken, weights, np.full((6, 4), np.nan), labels=labels, unsafe=[0])
    assert only[:3] == ("rows_judged", 0, 6)


@pytest.mark.parametrize("operator", POWERS.values(), ids=POWERS)
def test_float32_rows_are_allowed_their_rounding(operator):
    log_probs, weights, labels = rows(10, classes=50)
    narrow, shares = log_probs.astype(np.float32), weights.astype(np.float32)
    found = report(operator, narrow, shares, labels=labels, unsafe=[0, 1])
    assert found["log_loss"].theorem == (0 <= exponent_of(operator) <= 1)
    assert not [name for name, q in found.items() if q.theorem and q.holds is False]
    strict = report(operator, narrow, shares, labels=labels, tolerance=1e-13)
    assert not strict["log_loss"].theorem


def test_a_thousand_classes_and_vanishing_normalisers_do_not_overflow():
    rng = np.random.default_rng(11)
    log_probs = log_softmax(rng.normal(size=(4, 8, 1000)) * 400)
    weights = np.full((4, 8), 0.25)
    for operator in POWERS.values():
        found = report(operator, log_probs, weights, labels=rng.integers(1000, size=8), unsafe=range(10))
        assert not any(math.isnan(q.value) for q in found.values())
        assert not [name for name, q in found.items() if q.theorem and q.holds is False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_probs": np.zeros((2, 3))}, r"log_probs has shape \(2, 3\); it must be \[K, B, C\]"),
        ({"log_probs": np.zeros((2, 0, 3))}, r"none of them 0"),
        ({"weights": np.full((2,), 0.5)}, r"weights has shape \(2,\).*must be \(2, 1\)"),
        ({"weights": np.full((2, 1), 0.4)}, r"weights of row 0 are \[0.4, 0.4\]"),
        ({"weights": np.array([[1.5], [-0.5]])}, "non-negative"),
        ({"weights": np.array([[np.nan], [1.0]])}, "weights of row 0"),
        ({"pooled": np.zeros((1, 3))}, r"pooled has shape \(1, 3\)"),
        ({"pooled": np.log([[0.5, 0.2]])}, "pooled: row 0 sums to 0.7"),
        ({"log_probs": np.log([[[0.5, 0.5]], [[0.5, 0.4]]])}, "row 0 of teacher 1 sums to 0.9"),
        ({"log_probs": np.array([[[0.5, 0.5]], [[0.5, 0.5]]])}, "must hold the logarithms"),
        ({"log_probs": np.full((2, 1, 2), -np.inf)}, "sums to 0"),
        ({"labels": [0, 1]}, "one a row"),
        ({"labels": [0.0]}, "integers"),
        ({"labels": [2]}, "from 0 to 1, or -1"),
        ({"labels": [-2]}, "from 0 to 1, or -1"),
        ({"unsafe": [2]}, "class indices from 0 to 1"),
        ({"unsafe": [-1]}, "class indices from 0 to 1"),
        ({"unsafe": [0.5]}, "class indices from 0 to 1"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    arguments = {
        "log_probs": np.log([[[0.5, 0.5]], [[0.3, 0.7]]]),
        "weights": np.full((2, 1), 0.5),
        "pooled": np.log([[0.4, 0.6]]),
    }
    with pytest.raises(InvalidBatch, match=message):
        guarantees("linear", {}, **(arguments | change))


def test_parameters_that_the_operator_refuses_are_refused():
    with pytest.raises(InvalidParameter):
        gather("holder", {"exponent": 3}, np.zeros((1, 1, 1)), np.ones((1, 1)), np.zeros((1, 1)))


def test_a_quantity_is_immutable_data():
    quantity = Quantity("a", 1.0, 2.0, holds=True, theorem=False, conditions="none")
    with pytest.raises(AttributeError):
        quantity.value = 2.0
    assert list(quantity._asdict()) == ["name", "value", "bound", "holds", "theorem", "conditions"]


def test_values_are_plain_data_with_words():
    log_probs, weights, labels = rows(12, count=5)
    for quantity in report(geometric(), log_probs, weights, labels=labels, unsafe=[0]).values():
        assert type(quantity.value) is float
        assert quantity.bound is None or type(quantity.bound) is float
        assert quantity.holds is None or type(quantity.holds) is bool
        assert type(quantity.theorem) is bool
        assert quantity.conditions.endswith(".")


def test_nothing_is_modified():
    log_probs, weights, labels = rows(13, count=5)
    pooled = linear().fuse(log_probs, weights)
    before = [array.copy() for array in (log_probs, weights, pooled, labels)]
    guarantees("linear", {}, log_probs, weights, pooled, labels=labels, unsafe=[0])
    for array, copy in zip((log_probs, weights, pooled, labels), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_public_names_are_listed_sorted_and_documented():
    assert operators.guarantees.__all__ == sorted(operators.guarantees.__all__)
    for name in operators.guarantees.__all__:
        value = getattr(operators.guarantees, name)
        assert value.__doc__
        if not isinstance(value, type):
            assert "Example:" in value.__doc__, name
            assert "Returns:" in value.__doc__, name
