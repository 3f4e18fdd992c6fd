"""``soft-targets check``: what serving a configuration would need, looked at without serving it."""

from service.checking.costs import Planned
from service.checking.ensembles import Checked, Finding, check_config
from service.checking.rendering import document, shown
from service.checking.surroundings import Surroundings, look_around

__all__ = [
    "Checked",
    "Finding",
    "Planned",
    "Surroundings",
    "check_config",
    "document",
    "look_around",
    "shown",
]
