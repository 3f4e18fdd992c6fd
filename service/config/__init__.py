"""The configuration: one YAML 1.2 file, strict, read once into frozen values.

    settings = load(Path("ensembles.yaml"))

Every key can be overridden by an environment variable: ``SOFT_TARGETS__SERVER__PORT=9000``. Paths are
relative to the file. An unknown key is refused with the nearest known one, and a key whose feature is not
there yet is refused by name.
"""

from service.config.cache import REMOTE, Address, Cache
from service.config.ensemble import Ensemble, Input, Output, RecipeSection, Teacher
from service.config.fake import FakeModel
from service.config.remote import RemoteModel
from service.config.settings import DEEPEST, Auth, Limits, Server, Settings, load, read_recipe, text_of
from service.config.values import TEMPERATURES, input_name

__all__ = [
    "DEEPEST",
    "REMOTE",
    "TEMPERATURES",
    "Address",
    "Auth",
    "Cache",
    "Ensemble",
    "FakeModel",
    "Input",
    "Limits",
    "Output",
    "RecipeSection",
    "RemoteModel",
    "Server",
    "Settings",
    "Teacher",
    "input_name",
    "load",
    "read_recipe",
    "text_of",
]
