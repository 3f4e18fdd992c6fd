"""Operators from elsewhere: how a recipe names them, what tells them apart, and what is refused."""

import sys
from importlib import metadata
from pathlib import Path

import pytest

from operators import BUILTIN
from service.admission import Certifier
from service.config import Ensemble as EnsembleConfig
from service.engine.recipes import admit
from service.errors import ConfigError, OperatorRefused
from service.keys import fingerprint
from service.model import OperatorSpec
from service.plans import operators as plans
from service.plans import sources
from service.plans.operators import resolve

EXAMPLES = Path(__file__).parents[2] / "examples"
SHAPE = {"teachers": 3, "classes": 3, "profile": "strict", "floor": 1e-6}


@pytest.fixture(autouse=True)
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write modules, and forget all that was written before."""
    monkeypatch.syspath_prepend(str(tmp_path))
    # A second may pass between two sources of one size: compiled ones would be taken for the new.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written = set()

    def write(**texts):
        for name in written:
            for loaded in [one for one in sys.modules if one.partition(".")[0] == name]:
                del sys.modules[loaded]
        for name, text in texts.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            written.add(name.partition("/")[0])
        plans.importlib.invalidate_caches()

    yield write
    write()


def imported(path, **parameters):
    return resolve(OperatorSpec(path, tuple(sorted(parameters.items())), imported=True))


HEAD = "import functools\nfrom operators import Claim, Operator, geometric, linear, simplex, softened\n"
SHARP = f"""{HEAD}
def sharp(*, power=1.0):
    def fuse(log_probs, weights):
        return simplex.log_softmax(power * geometric().fuse(log_probs, weights))

    return Operator("sharp", (), fuse, "floored")
"""


def test_a_parameter_that_an_operator_keeps_back_is_in_its_certificate_s_name(module):
    module(own_pools=SHARP)
    certifier = Certifier(None)
    honest, poor = (imported("own_pools:sharp", power=power) for power in (1.0, 2.0))
    assert honest.operator[:2] == poor.operator[:2] == ("sharp", ())
    assert fingerprint(honest.identity) != fingerprint(poor.identity)
    certifier.certificate(*honest, **SHAPE).refuse_unless([], where="r")
    with pytest.raises(OperatorRefused):
        certifier.certificate(*poor, **SHAPE).refuse_unless([], where="r")
    left_out = imported("own_pools:sharp")
    assert fingerprint(left_out.identity) != fingerprint(honest.identity)


def test_two_factories_of_one_module_are_two_operators_whatever_they_call_themselves(module):
    module(
        own_pools=f"{HEAD}\n"
        'def one():\n    return Operator("pool", (), geometric().fuse, "floored")\n\n'
        'def two():\n    return Operator("pool", (), linear().fuse, "floored")\n'
    )
    certifier = Certifier(None)
    one, two = imported("own_pools:one"), imported("own_pools:two")
    assert fingerprint(one.identity) != fingerprint(two.identity)
    assert certifier.certificate(*one, **SHAPE).id != certifier.certificate(*two, **SHAPE).id


def test_an_admitted_recipe_keeps_its_operator_as_it_was_given(module):
    module(own_pools=SHARP)
    config = EnsembleConfig.model_validate(
        {
            "classes": ["a", "b"],
            "teachers": [{"name": "t", "model": "t.onnx", "output": {"kind": "logits"}}],
            "recipes": {
                "own": {"operator": {"import": "own_pools:sharp", "power": 1}},
                "holder": {"operator": {"name": "holder", "exponent": 1}},
                "plain": {"operator": "weighted_max", "accept_violations": ["beauty"]},
            },
        }
    )

    def admitted(name):
        return admit(name, config.recipes[name], config, Certifier(None), where=name).recipe.operator

    assert admitted("own").as_dict() == {"import": "own_pools:sharp", "power": 1}
    assert admitted("holder").as_dict() == {"name": "holder", "exponent": 1.0}
    with pytest.raises(ConfigError, match="no axiom 'beauty'"):
        admitted("plain")


@pytest.mark.parametrize("name", sorted(BUILTIN))
def test_a_built_in_s_defaults_may_be_left_out(name):
    short = resolve(OperatorSpec(name, (("exponent", 0.5),) if name == "holder" else ()))
    long = resolve(OperatorSpec(name, short.operator.parameters))
    assert short.identity == long.identity
    assert dict(short.given.parameters).keys() == dict(short.operator.parameters).keys()


@pytest.mark.parametrize(
    ("given", "kept"), [(2.0, 3.0), (2, True), (True, 1), (1, True), ("1", 1), (0.1, 0.1 + 1e-16)]
)
def test_an_operator_that_says_another_value_than_it_was_given_is_refused(module, given, kept):
    module(
        own_pools=f"{HEAD}\n"
        f'def pool(*, x):\n    return Operator("pool", (("x", {kept!r}),), geometric().fuse, "floored")\n'
    )
    if given == kept and type(given) is type(kept):
        imported("own_pools:pool", x=given)
        return
    with pytest.raises(ConfigError, match=r"was given x = .* its own parameters say x = .*; give the value"):
        imported("own_pools:pool", x=given)


def test_a_whole_number_is_its_float(module):
    module(
        own_pools=f"{HEAD}\n"
        'def pool(*, x):\n    return Operator("pool", (("x", float(x)),), geometric().fuse, "floored")\n'
    )
    assert imported("own_pools:pool", x=2).operator.parameters == (("x", 2.0),)


CHANGES = {
    "a body": ({"own_pools": "def pool(log_probs, weights):\n    return log_probs[{}]\n"}, (0, -1)),
    "an argument of a project's combinator": (
        {"own_pools": HEAD + "pool = softened(geometric().fuse, {})\n"},
        (1.0, 0.5),
    ),
    "an argument of a partial": (
        {
            "own_pools": HEAD
            + "def make(*, t):\n    return softened(geometric().fuse, t)\n\n"
            + "pool = functools.partial(make, t={})\n"
        },
        (1.0, 0.5),
    ),
    "a constant in a sibling": (
        {
            "own_help": "T = {}\n",
            "own_pools": HEAD
            + "from own_help import T\n\ndef pool():\n    return softened(geometric().fuse, T)\n",
        },
        (1.0, 0.5),
    ),
    "a constant two modules away, imported when it is needed": (
        {
            "own_deep": "T = {}\n",
            "own_help": "def t():\n    import own_deep\n\n    return own_deep.T\n",
            "own_pools": HEAD
            + "import own_help\n\ndef pool():\n    return softened(geometric().fuse, own_help.t())\n",
        },
        (1.0, 0.5),
    ),
    "a package's module that nobody has loaded yet": (
        {
            "own_pack/__init__": "",
            "own_pack/rest": "T = {}\n",
            "own_pools": HEAD + "import own_pack\n\ndef pool():\n    return geometric()\n",
        },
        (1.0, 0.5),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_all_code_of_an_own_operator_is_in_its_digest(module, what):
    texts, values = CHANGES[what]
    codes = []
    for value in (*values, values[0]):
        module(**{name: text.format(value) for name, text in texts.items()})
        codes.append(imported("own_pools:pool").code)
    assert codes[0] == codes[2] != codes[1]


def test_a_package_s_operator_has_all_of_the_package_in_its_digest(module, tmp_path, monkeypatch):
    codes = []
    for place, value in (("one", 1), ("two", 1), ("two", 2)):
        folder = tmp_path / place
        monkeypatch.syspath_prepend(str(folder))
        module(
            **{
                f"{place}/own_pack/__init__": "",
                f"{place}/own_pack/constants": f"T = {value}\n",
                f"{place}/own_pack/pools": HEAD
                + "from .constants import T\n\ndef pool():\n    return softened(geometric().fuse, T)\n",
            }
        )
        for loaded in [one for one in sys.modules if one.startswith("own_pack")]:
            del sys.modules[loaded]
        codes.append(imported("own_pack.pools:pool").code)
    assert codes[0] == codes[1], "where a package lies does not matter"
    assert codes[1] != codes[2]


def test_what_is_installed_counts_by_its_version(module, monkeypatch):
    module(own_pools=HEAD + "import numpy\n\ndef pool():\n    return geometric()\n")
    first = imported("own_pools:pool").code
    module(own_pools=HEAD + "import numpy\n\ndef pool():\n    return geometric()\n")
    assert imported("own_pools:pool").code == first
    version = metadata.version
    monkeypatch.setattr(sources.metadata, "version", lambda name: "0.0" if name == "numpy" else version(name))
    module(own_pools=HEAD + "import numpy\n\ndef pool():\n    return geometric()\n")
    assert imported("own_pools:pool").code != first


def test_what_was_loaded_is_what_was_hashed(module, tmp_path):
    module(own_pools=HEAD + "def pool():\n    return geometric()\n")
    first = imported("own_pools:pool")
    (tmp_path / "own_pools.py").write_text(HEAD + "def pool():\n    return linear()\n")
    again = imported("own_pools:pool")  # the process still runs what it read
    assert (again.operator.name, again.code) == ("geometric", first.code)


BAD = {
    "raises KeyError": ("def pool():\n    raise KeyError('nothing')\n", "raised KeyError: 'nothing'"),
    "raises RuntimeError": ("def pool():\n    raise RuntimeError('no')\n", "raised RuntimeError: no"),
    "leaves": ("def pool():\n    raise SystemExit(3)\n", "raised SystemExit: 3"),
    "refuses": ("def pool():\n    raise ValueError('x from 0 to 1')\n", "with {}: x from 0 to 1"),
    "a number": ("pool = 3\n", "'own_pools:pool' is int 3, not a function"),
    "an operator": ("pool = geometric()\n", "is an Operator, not a function"),
    "a module that raises": ("raise RuntimeError('at import')\n", "RuntimeError: at import"),
    "a module that leaves": ("raise SystemExit(3)\n", "SystemExit: 3"),
    "makes a number": ("def pool():\n    return 3\n", "returned int; a factory returns"),
    "needs two": (
        "def pool(alpha, beta):\n    return geometric()\n",
        "is a factory that needs alpha and beta: give both",
    ),
    "needs one": ("def pool(alpha):\n    return geometric()\n", "missing 1 required positional argument"),
}
MADE = {
    "domain": ("'p', (), geometric().fuse, 'Zeros'", "its domain is 'Zeros'"),
    "domain as a list": ("'p', (), geometric().fuse, ['zeros']", "its domain is ['zeros']"),
    "no fuse": ("'p', (), None, 'zeros'", "its fuse is None"),
    "no name": ("'', (), geometric().fuse, 'zeros'", "name is ''"),
    "names alone": ("'p', ('a', 'b'), geometric().fuse, 'zeros'", "its parameters are ('a', 'b')"),
    "no pairs": ("'p', 3, geometric().fuse, 'zeros'", "its parameters are 3"),
    "a list": ("'p', (('a', [1]),), geometric().fuse, 'zeros'", "parameter 'a' is [1]"),
    "NaN": ("'p', (('a', float('nan')),), geometric().fuse, 'zeros'", "parameter 'a' is nan"),
    "twice": ("'p', (('a', 1), ('a', 1)), geometric().fuse, 'zeros'", "its parameters"),
    "a word": ("'p', (('import', 1),), geometric().fuse, 'zeros'", "called 'import'; call it otherwise"),
    "axiom": ("'p', (), geometric().fuse, 'zeros', (Claim('convexity', 2),)", "axiom 'convexity': did you"),
    "level": ("'p', (), geometric().fuse, 'zeros', (Claim('continuity', 7),)", "0 to 2"),
    "claims": ("'p', (), geometric().fuse, 'zeros', (1,)", "claims"),
    "disclaimers": ("'p', (), geometric().fuse, 'zeros', (), 1", "disclaimers are 1"),
}


@pytest.mark.parametrize("what", [*BAD, *MADE])
def test_what_a_user_s_module_does_wrong_is_told_in_one_message(module, what):
    text, said = (
        BAD[what] if what in BAD else (f"def pool():\n    return Operator({MADE[what][0]})\n", MADE[what][1])
    )
    module(own_pools=HEAD + text)
    with pytest.raises(ConfigError) as caught:
        imported("own_pools:pool")
    assert said in str(caught.value)
    assert "own_pools" in str(caught.value)


def test_two_arguments_by_position_are_a_fuse_unless_they_are_given(module):
    module(
        own_pools=f"{HEAD}\n"
        "def fuse(log_probs, weights, eps=1e-9):\n    return geometric().fuse(log_probs, weights)\n\n"
        'def pool(a, b):\n    return Operator("p", (("a", a), ("b", b)), geometric().fuse, "floored")\n'
    )
    assert imported("own_pools:fuse").operator[:2] == ("own_pools:fuse", ())
    assert imported("own_pools:pool", a=1, b=2).operator[:2] == ("p", (("a", 1), ("b", 2)))
    for path, given in (("own_pools:fuse", {"eps": 1e-8}), ("own_pools:pool", {"a": 1})):
        with pytest.raises(ConfigError, match="is taken for a bare fuse function, which takes no parameters"):
            imported(path, **given)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (OperatorSpec("my_operator:nothing", imported=True), "has no function 'nothing'"),
        (OperatorSpec("my_operator:half_way", imported=True), "did you mean 'halfway'"),
        (OperatorSpec("my_operator", imported=True), 'must look like "package.module:name"'),
        (OperatorSpec("no_such_module:f", imported=True), "cannot import 'no_such_module'"),
        (
            OperatorSpec("my_operator:sure_weighted", (("sharpness", 99),), imported=True),
            "a number from 0 to 20",
        ),
        (OperatorSpec("my_operator:sure_weighted", (("shape", 2.0),), imported=True), "unexpected keyword"),
        (OperatorSpec("my_operator:mean_of_logits", (("a", 1),), imported=True), "takes no parameters"),
        (OperatorSpec("my_operator:Claim", imported=True), "Claim"),
        (OperatorSpec("liner"), "did you mean 'linear'"),
    ],
)
def test_operators_that_cannot_be_had(spec, said):
    with pytest.raises(ConfigError) as caught:
        resolve(spec)
    assert said in str(caught.value)


def test_an_entry_point_is_an_operator_by_name(monkeypatch):
    entry = metadata.EntryPoint("surest", "my_operator:sure_weighted", plans.GROUP)
    monkeypatch.setattr(plans.metadata, "entry_points", lambda group: [entry] if group == plans.GROUP else [])
    resolved = resolve(OperatorSpec("surest", (("sharpness", 0.25),)))
    assert resolved.operator.parameters == (("sharpness", 0.25),)
    assert resolved.given == OperatorSpec("surest", (("sharpness", 0.25),))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["my_operator:nothing"], "cannot be loaded: AttributeError"),
        (["my_operator:__doc__"], "is str"),
        (["my_operator:halfway", "my_operator:mean_of_logits"], "is offered more than once, as my_operator:"),
    ],
)
def test_entry_points_that_cannot_be_had(monkeypatch, values, said):
    entries = [metadata.EntryPoint("own", value, plans.GROUP) for value in values]
    monkeypatch.setattr(plans.metadata, "entry_points", lambda group: entries)  # noqa: ARG005
    with pytest.raises(ConfigError) as caught:
        resolve(OperatorSpec("own"))
    assert said in str(caught.value)
