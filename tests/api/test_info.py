import inspect

import pytest

from service import errors as service_errors
from service.api.errors import STATUS, answer


def test_an_ensemble_is_described(client, toy):
    info = client.get("/v1/ensembles/toy").json()
    assert client.get("/v1/ensembles").json() == {"ensembles": [info]}
    assert info["name"] == "toy"
    assert info["inputs"] == {"pixels": {"dtype": "<f4", "shape": [6], "allow_nan": False}}
    assert info["classes"] == toy.classes
    assert info["limits"] == {"max_body_bytes": 1 << 20, "max_rows_per_request": 300}
    assert [teacher["name"] for teacher in info["teachers"]] == ["logits", "probs", "merged"]
    assert [teacher["temperature"] for teacher in info["teachers"]] == [1.5, 1, 1]
    assert {teacher["device"] for teacher in info["teachers"]} == {"cpu"}
    assert len({teacher["digest"] for teacher in info["teachers"]}) == 3
    recipes = info["recipes"]
    assert list(recipes) == ["default", "linear", "geometric", "sparse", "cooled"]
    assert len({recipe["fingerprint"] for recipe in recipes.values()}) == 5
    assert recipes["default"]["weights"] == {"logits": 0.5, "probs": 0.3, "merged": 0.2}
    assert {recipe["profile"] for recipe in recipes.values()} == {"strict"}
    assert all(len(recipe["certificate"]) == 64 and not recipe["violations"] for recipe in recipes.values())
    assert recipes["sparse"]["sparsity"] == {"top_k": 2}
    assert recipes["default"]["sparsity"] is None
    plans = {(plan["operator"]["name"], plan["sparse"]): plan for plan in info["plans"]}
    # Other tests of this server may have asked for more.
    assert set(plans) >= {("holder", False), ("linear", False), ("geometric", False), ("linear", True)}
    assert {plan["plan"] for plan in plans.values()} == {"staged"}
    assert all(plan["reason"] for plan in plans.values())


def subclasses(of):
    return {of, *(one for child in of.__subclasses__() for one in subclasses(child))}


def test_every_error_is_mapped_to_one_status_and_one_shape():
    mine = {one for one in subclasses(service_errors.ServiceError) if one.__module__ == "service.errors"}
    assert set(STATUS) == mine
    for kind in mine:
        extra = {
            service_errors.TeacherFailure: {"teacher": "cnn"},
            service_errors.TeacherOverrun: {"teacher": "cnn"},
            service_errors.TeacherSilent: {"teacher": "cnn"},
            service_errors.OperatorRefused: {"certificate": {}},
            service_errors.QuotaExceeded: {"retry_after_s": 2},
            service_errors.RowsFailed: {"row_code": "teacher_failed"},
        }.get(kind, {})
        reply = answer(kind("what, where, what to do", **extra))
        assert reply.status_code == STATUS[kind]
    assert "ServiceError" in service_errors.__doc__
    for name, _ in inspect.getmembers(service_errors, inspect.isclass):
        assert name in service_errors.__doc__ or name in {"Any", "ClassVar"}


def test_an_unexpected_error_keeps_its_secrets(client, monkeypatch):
    def broken(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("service.api.app.describe", broken)
    reply = client.get("/v1/ensembles")
    assert reply.status_code == 500
    assert reply.json()["code"] == "internal"
    assert "secret" not in reply.text


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_health(client, path):
    assert client.get(path).status_code == 200


def test_openapi_covers_the_binary_route(client):
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    route = document["paths"]["/v1/ensembles/{ensemble}/soft-targets"]["post"]
    assert set(route["requestBody"]["content"]) == {"application/json", "application/vnd.apache.arrow.stream"}
    names = [parameter["name"] for parameter in route["parameters"]]
    assert names == ["ensemble", "recipe", "temperature", "weights", "top_k", "dtype", "order"]
    ensemble = "/v1/ensembles/{ensemble}"
    recipe = f"{ensemble}/recipes/{{recipe}}"
    assert set(document["paths"]) == {
        "/v1/events", "/v1/ensembles", ensemble, f"{ensemble}/soft-targets", f"{ensemble}/guarantees", recipe,
        f"{ensemble}/opinions", f"{ensemble}/samples",
        f"{recipe}/certificate", f"{ensemble}/reload", "/livez", "/readyz", "/metrics",
        "/v2/models/{model}/infer",
    }  # fmt: skip
