"""The replies that describe what is served."""

from typing import Any

from pydantic import BaseModel

from service.config import Limits
from service.engine.ensemble import Ensemble, Overrides


class InputInfo(BaseModel):
    """One input: numpy's spelling of its dtype (or utf8), and the shape of one row."""

    dtype: str
    shape: list[int]
    allow_nan: bool


class TeacherInfo(BaseModel):
    """One teacher as it is bound."""

    name: str
    digest: str
    device: str
    temperature: float
    weight: float
    revision: str | None


class RecipeInfo(BaseModel):
    """One recipe and the fingerprint of what it answers."""

    fingerprint: str
    operator: dict[str, Any]
    profile: str
    certificate: str
    violations: list[str]
    temperature: float
    weights: dict[str, float]
    floor: float
    output_temperature: float
    sparsity: dict[str, int] | None
    diagnostics: bool


class PlanInfo(BaseModel):
    """How a pair of operator and sparsity is run, and why so."""

    operator: dict[str, Any]
    sparse: bool
    diagnostics: bool
    plan: str
    reason: str
    spread: float | None


class Readiness(BaseModel):
    """Whether requests are answered, and what is amiss all the same."""

    ready: bool
    degraded: list[str]


class EnsembleInfo(BaseModel):
    """One ensemble; ``not_cached`` says why none of its targets are kept, ``samples`` how many it has."""

    name: str
    inputs: dict[str, InputInfo]
    classes: list[str]
    unsafe_classes: list[str]
    samples: int
    limits: dict[str, int]
    not_cached: str | None
    teachers: list[TeacherInfo]
    recipes: dict[str, RecipeInfo]
    plans: list[PlanInfo]


class EnsembleList(BaseModel):
    """All ensembles."""

    ensembles: list[EnsembleInfo]


def describe(ensemble: Ensemble, limits: Limits) -> EnsembleInfo:
    """An ensemble as the API shows it."""
    recipes = {name: ensemble.effective(name, Overrides()) for name in ensemble.recipes}
    names = [member.teacher.name for member in ensemble.members]
    return EnsembleInfo(
        name=ensemble.name,
        inputs={
            name: InputInfo(dtype=spec.dtype, shape=list(spec.shape), allow_nan=name in ensemble.allow_nan)
            for name, spec in ensemble.inputs.items()
        },
        classes=list(ensemble.classes),
        unsafe_classes=list(ensemble.config.unsafe_classes),
        samples=max(map(len, ensemble.samples.values()), default=0),
        limits={
            "max_body_bytes": int(limits.max_body_bytes),
            "max_rows_per_request": limits.max_rows_per_request,
        },
        not_cached=ensemble.config.not_cached,
        teachers=[
            TeacherInfo(
                name=member.teacher.name,
                digest=member.teacher.digest,
                device=str(member.teacher.device),
                temperature=member.temperature,
                weight=section.weight,
                revision=section.revision,
            )
            for member, section in zip(ensemble.members, ensemble.config.teachers, strict=True)
        ],
        recipes={
            name: RecipeInfo(
                fingerprint=known.fingerprint,
                operator=known.recipe.operator.as_dict(),
                profile=ensemble.recipes[name].section.profile,
                certificate=known.certificate.id,
                violations=known.certificate.violations,
                temperature=known.recipe.temperature,
                weights=dict(zip(names, known.recipe.weights, strict=True)),
                floor=known.recipe.floor,
                output_temperature=known.recipe.output_temperature,
                sparsity=None if known.recipe.top_k is None else {"top_k": known.recipe.top_k},
                diagnostics=known.recipe.diagnostics,
            )
            for name, known in recipes.items()
        },
        plans=[PlanInfo(**plan) for plan in ensemble.plans.report()],
    )
