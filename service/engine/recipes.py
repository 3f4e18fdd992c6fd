"""Recipes as they are served: each with its operator, admitted by a certificate."""

import dataclasses
from typing import NamedTuple

from service.admission import Certificate, Certifier, check_accepted
from service.config import Ensemble as EnsembleConfig
from service.config import RecipeSection
from service.errors import ConfigError
from service.model import Recipe
from service.plans.operators import Resolved, resolve


class Admitted(NamedTuple):
    """A recipe that may answer.

    Attributes:
        section: as it was written.
        recipe: with weights normalised, and the operator as it is given; a built-in one with its defaults.
        resolved: the operator that fuses, and what tells it from every other.
        certificate: why it may.
    """

    section: RecipeSection
    recipe: Recipe
    resolved: Resolved
    certificate: Certificate


def admit(
    name: str, section: RecipeSection, config: EnsembleConfig, certifier: Certifier, *, where: str
) -> Admitted:
    """Resolve a recipe's operator and certify it for this ensemble; takes seconds for a new question.

    Args:
        name: of the recipe.
        section: as it was written.
        config: the ensemble's.
        certifier: asks each question once.
        where: for messages.

    Raises:
        ConfigError: the operator is unknown, or cannot be judged; or what is accepted is no axiom.
        OperatorRefused: it does not reach its profile, and that was not accepted.
    """
    recipe = config.recipe(name, section)
    check_accepted(section.accept_violations, where=where)  # before the seconds that a certificate takes
    try:
        resolved = resolve(recipe.operator)
        certificate = certifier.certificate(
            *resolved,
            teachers=len(config.teachers),
            classes=len(config.classes),
            profile=section.profile,
            floor=recipe.floor,
        )
    except ConfigError as exc:
        raise ConfigError(f"{where}: {exc}") from None
    certificate.refuse_unless(section.accept_violations, where=where)
    return Admitted(section, dataclasses.replace(recipe, operator=resolved.given), resolved, certificate)
