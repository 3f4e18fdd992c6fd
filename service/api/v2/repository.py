"""The model repository: what is served and could be, loading and unloading.

The repository is the configuration. Ensembles are loaded and unloaded, each with all of its recipes.
"""

from collections.abc import Collection, Mapping
from typing import Any

from service.api.v2 import requests
from service.api.v2.messages import short, unknown_keys
from service.api.v2.models import model_of, models_of, names_of, parse
from service.api.v2.parameters import boolean, parameters_of
from service.config import Ensemble as EnsembleConfig
from service.engine.changes import Changes
from service.engine.engine import Engine
from service.engine.ensemble import Ensemble
from service.errors import BadInput, NotReady, Unsupported

READY, UNAVAILABLE = "READY", "UNAVAILABLE"


def document_of(body: bytes, *, max_depth: int) -> dict[str, Any]:
    """A body that may be empty.

    Raises:
        BadInput: it is no JSON object, or nests too deep.
    """
    return requests.document_of(body, max_depth=max_depth) if body.strip() else {}


def index(
    engine: Engine, configured: Mapping[str, EnsembleConfig], document: Mapping[str, Any]
) -> list[dict[str, str]]:
    """All models: those that are served, and those of ensembles that were unloaded.

    Args:
        engine: opened.
        configured: the ensembles with which the server started.
        document: empty, or ``{"ready": true}`` for those alone that answer.

    Raises:
        BadInput: it is something else.
    """
    _check_keys(document, ("ready",))
    only_ready = boolean("ready", document.get("ready", False))
    served = engine.ensembles
    entries = [
        _entry(model.name, model.version, _amiss(ensemble))
        for ensemble in served.values()
        for model in models_of(ensemble)
    ]
    entries += [
        _entry(model, "", "unloaded")
        for name, section in configured.items()
        if name not in served
        for model in names_of(name, section.recipes)
    ]
    return [entry for entry in entries if entry["state"] == READY or not only_ready]


async def load(engine: Engine, changes: Changes, name: str, document: Mapping[str, Any]) -> None:
    """Serve a model's ensemble as its configuration says now.

    Raises:
        BadInput: the document is not what a load request holds.
        Unsupported: it brings a configuration or files of its own.
        UnknownEnsemble, UnknownRecipe: there is no such model.
        BadConfiguration: the ensemble cannot be used; it is served as before.
    """
    _check_keys(document, ("parameters",))
    given = document.get("parameters")
    for key in given if isinstance(given, dict) else ():
        if key == "config" or key.startswith("file:"):
            raise Unsupported(
                "a model is loaded from the server's configuration alone, not from the parameter "
                f"{short(key)}"
            )
    parameters_of(document, (), "the request")
    ensemble = parse(name).ensemble
    await changes.reload(ensemble)
    if name != ensemble:
        model_of(engine.ensemble(ensemble), name)


async def unload(changes: Changes, name: str, document: Mapping[str, Any]) -> None:
    """Serve an ensemble no longer, until it is loaded again or the server starts anew.

    Raises:
        BadInput: the document is not what an unload request holds, or the model is one recipe of several.
        UnknownEnsemble: there is no such ensemble.
    """
    _check_keys(document, ("parameters",))
    parameters = parameters_of(document, ("unload_dependents",), "the request")
    boolean("unload_dependents", parameters.get("unload_dependents", False))
    ensemble = parse(name).ensemble
    if name != ensemble:
        raise BadInput(
            f"{name!r} is a recipe; an ensemble is unloaded with all of its recipes: unload {ensemble!r}"
        )
    await changes.unload(ensemble)


def _amiss(ensemble: Ensemble) -> str | None:
    """Why an ensemble does not answer; None where it does."""
    try:
        ensemble.check_ready()
    except NotReady as exc:
        return str(exc)
    return None


def _entry(name: str, version: str, amiss: str | None) -> dict[str, str]:
    state = READY if amiss is None else UNAVAILABLE
    return {"name": name, "version": version, "state": state, "reason": amiss or ""}


def _check_keys(document: Mapping[str, Any], known: Collection[str]) -> None:
    if extra := document.keys() - set(known):
        raise BadInput(f"the body: {unknown_keys(extra, known)}")
