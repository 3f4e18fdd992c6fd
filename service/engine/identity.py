"""What targets and opinions are a function of, besides the input: it is what their fingerprints name."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import service.plans
import service.teachers
from service.config import Ensemble as EnsembleConfig
from service.config import RemoteModel
from service.config import Teacher as TeacherConfig
from service.keys import fingerprint, sources_digest
from service.model import Recipe
from service.plans.member import Member
from service.plans.stages import Kept
from service.teachers.onnx import runtime
from soft_targets.wire import FORMAT


class Identity:
    """The fingerprints of one ensemble.

    Args:
        config: of the ensemble.
        members: its teachers in order; one that was absent is replaced when it is met.
        allow_nan: the inputs that may hold values that are not finite.
        keep: in which precision opinions are kept; None where they are not.
    """

    def __init__(
        self, config: EnsembleConfig, members: Sequence[Member], allow_nan: Collection[str], keep: Kept | None
    ) -> None:
        self._config = config
        self._members = members
        self._allow_nan = sorted(allow_nan)
        self._keep = keep
        plans, teachers = (Path(one.__path__[0]) for one in (service.plans, service.teachers))
        self._code = [sources_digest(plans) + sources_digest(teachers), runtime()]

    def opinions(self) -> str:
        """What kept opinions are a function of."""
        return fingerprint([self._asked_of_teachers(), "opinions", self._keep])

    def target(self, recipe: Recipe, operator: list[Any], plan: str) -> str:
        """Everything that can change a byte of a target.

        Args:
            recipe: as one request asks for it.
            operator: what tells its operator from every other.
            plan: which answers it.
        """
        return fingerprint(
            {
                **self._asked_of_teachers(),
                "plan": plan,
                "operator": operator,
                "weights": recipe.weights,
                "temperature": recipe.temperature,
                "floor": recipe.floor,
                "output_temperature": recipe.output_temperature,
                "top_k": recipe.top_k,
                "dtype": recipe.dtype,
                "diagnostics": recipe.diagnostics,
                "opinions": self._keep,
            }
        )

    def _asked_of_teachers(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "classes": self._config.classes,
            "allow_nan": self._allow_nan,
            "teachers": [
                {
                    "digest": member.teacher.digest,
                    **_bound(member, section),
                    "classes": section.classes,
                    "missing": section.missing,
                    "temperature": member.temperature,
                    "device": member.teacher.device.numeric_mode,
                }
                for member, section in zip(self._members, self._config.teachers, strict=True)
            ],
            "code": self._code,
        }


def _bound(member: Member, section: TeacherConfig) -> dict[str, object]:
    """How a teacher is tied to the ensemble; of one elsewhere what is configured, for it may be absent."""
    if isinstance(section.model, RemoteModel):
        return {"inputs": section.inputs, "output": [section.output.name, member.kind]}
    return {"inputs": dict(member.feeds), "output": [member.output, member.kind]}
