"""Models: what the protocol calls a recipe, and the integer that stands for its fingerprint."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from service.engine.engine import Engine
from service.engine.ensemble import Effective, Ensemble, Overrides
from service.errors import NotFound, UnknownEnsemble, UnknownRecipe
from service.model import nearest

DEFAULT = "default"
# 52 bits: every reader of JSON keeps such an integer exactly.
VERSION_DIGITS = 13


class ModelName(NamedTuple):
    """A model's name in its parts.

    Attributes:
        ensemble: before the dot.
        recipe: behind it; ``default`` where there is no dot.
    """

    ensemble: str
    recipe: str


class Model(NamedTuple):
    """A model that is served.

    Attributes:
        name: by which it was asked for.
        version: of it.
        effective: the recipe that it stands for.
    """

    name: str
    version: str
    effective: Effective


def parse(name: str) -> ModelName:
    """``{ensemble}`` or ``{ensemble}.{recipe}``; neither has a dot of its own."""
    ensemble, dot, recipe = name.partition(".")
    return ModelName(ensemble, recipe if dot else DEFAULT)


def names_of(ensemble: str, recipes: Iterable[str]) -> Iterator[str]:
    """The models of an ensemble: its bare name if it has a default recipe, then one for each recipe."""
    recipes = list(recipes)
    if DEFAULT in recipes:
        yield ensemble
    for recipe in recipes:
        yield f"{ensemble}.{recipe}"


def ensemble_of(engine: Engine, name: str) -> str:
    """The name of the ensemble that a model is of.

    Raises:
        UnknownEnsemble: it is not served.
    """
    known, ensemble = engine.ensembles, parse(name).ensemble
    if ensemble not in known:
        names = [model for one in known.values() for model in names_of(one.name, one.recipes)]
        raise UnknownEnsemble(f"no model {name!r}{nearest(name, names)}")
    return ensemble


def model_of(ensemble: Ensemble, name: str, version: str | None = None) -> Model:
    """A model of an ensemble.

    Args:
        ensemble: that serves it.
        name: of the model.
        version: that it has to be of; None takes any.

    Raises:
        UnknownRecipe: the ensemble has no such recipe.
        NotFound: the model is of another version.
    """
    recipe = parse(name).recipe
    if recipe not in ensemble.recipes:
        names = list(names_of(ensemble.name, ensemble.recipes))
        raise UnknownRecipe(f"no model {name!r}{nearest(name, names)}")
    effective = ensemble.effective(recipe, Overrides())
    served = version_of(effective)
    if version not in {None, served}:
        raise NotFound(f"model {name!r} is of version {served}, there is no version {version!r}")
    return Model(name, served, effective)


def version_of(effective: Effective) -> str:
    """A model's version: the first 13 hexadecimal digits of its fingerprint, as a decimal number."""
    return str(int(effective.fingerprint[:VERSION_DIGITS], 16))


def models_of(ensemble: Ensemble) -> list[Model]:
    """All models of an ensemble."""
    return [model_of(ensemble, name) for name in names_of(ensemble.name, ensemble.recipes)]
