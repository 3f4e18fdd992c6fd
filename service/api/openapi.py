"""The part of the OpenAPI document that is written by hand: the route whose bodies are binary."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.api.access import ACCESS, READ
from service.api.media import JSON, NDJSON
from service.api.query import ORDERS
from service.api.v2.replies import BINARY
from service.api.v2.routes import INFER_PATH
from service.config import TEMPERATURES
from soft_targets.wire import ARROW, CODECS, PRECISIONS

SOFT_TARGETS_PATH = "/v1/ensembles/{ensemble}/soft-targets"

_ERROR = {
    "type": "object",
    "required": ["error", "code"],
    "properties": {
        "error": {"type": "string", "description": "what was wrong, where, and what to do"},
        "code": {"type": "string"},
    },
}
_ERROR_REPLY: dict[str, Any] = {
    "description": "Cannot be answered",
    "content": {JSON: {"schema": _ERROR}},
}
ERRORS: dict[int | str, dict[str, Any]] = {"4XX": _ERROR_REPLY, "5XX": _ERROR_REPLY}


def _parameter(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


# What may be asked of rows, by whatever route.
QUERY = [
    _parameter("recipe", "which recipe", {"type": "string", "default": "default"}),
    _parameter(
        "temperature",
        "instead of the recipe's",
        {"type": "number", "minimum": TEMPERATURES[0], "maximum": TEMPERATURES[1]},
    ),
    _parameter(
        "weights",
        "instead of the recipe's: teacher:weight, unnamed are 0, normalised",
        {"type": "string", "examples": ["cnn:0.5,svm:0.5"]},
    ),
    _parameter("top_k", "keep this many classes and the tail's mass", {"type": "integer", "minimum": 1}),
    _parameter(
        "dtype",
        "of the log-probabilities: float16 halves what a target takes and keeps three digits; it is part "
        "of the fingerprint",
        {"type": "string", "enum": list(PRECISIONS), "default": PRECISIONS[0]},
    ),
    _parameter(
        "order", "of the rows in the reply", {"type": "string", "enum": list(ORDERS), "default": "input"}
    ),
]
ROW_ID = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]}
ROWS = {
    "type": "object",
    "required": ["inputs"],
    "additionalProperties": False,
    "properties": {
        "inputs": {
            "type": "object",
            "description": "ensemble input to a list of rows",
            "additionalProperties": {"type": "array"},
        },
        "row_ids": {"type": "array", "items": ROW_ID},
    },
}
_SOFT_TARGETS: dict[str, Any] = {
    "summary": "Soft targets",
    "description": "One fused, softened class distribution a row. A row that cannot be answered is an error "
    "row; it never fails its neighbours.",
    "operationId": "soft_targets",
    "parameters": [
        {"name": "ensemble", "in": "path", "required": True, "schema": {"type": "string"}},
        *QUERY,
    ],
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": ROWS},
            ARROW: {
                "schema": {
                    "type": "string",
                    "format": "binary",
                    "description": "an IPC stream: a column per input, optionally row_id",
                }
            },
        },
    },
    "responses": {
        "200": {
            "description": "A target or an error for every row",
            "content": {
                JSON: {
                    "schema": {
                        "type": "object",
                        "required": [
                            "ensemble",
                            "recipe",
                            "fingerprint",
                            "temperature",
                            "certificate",
                            "violations",
                            "targets",
                        ],
                        "properties": {
                            "ensemble": {"type": "string"},
                            "recipe": {"type": "string"},
                            "fingerprint": {"type": "string"},
                            "temperature": {"type": "number"},
                            "certificate": {"type": "string", "description": "the id of the operator's"},
                            "violations": {
                                "type": "array",
                                "items": {"type": "string"},
                                "description": "axioms that the configuration lets the operator violate",
                            },
                            "targets": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "required": ["row_id", "source"],
                                    "properties": {
                                        "row_id": ROW_ID,
                                        "source": {"type": "string"},
                                        "probabilities": {
                                            "type": "object",
                                            "additionalProperties": {"type": "number"},
                                        },
                                        "tail": {"type": "number"},
                                        "entropy": {"type": "number"},
                                        "divergence": {"type": "number"},
                                        "error_code": {"type": "string"},
                                        "error": {"type": "string"},
                                    },
                                },
                            },
                        },
                    }
                },
                ARROW: {
                    "schema": {
                        "type": "string",
                        "format": "binary",
                        "description": "an IPC stream, whose last batch is empty and says complete; its "
                        "buffers are compressed by the first codec that the Accept header names in its "
                        f"parameter codecs ({', '.join(CODECS)}), which the Content-Type repeats",
                    }
                },
                NDJSON: {
                    "schema": {
                        "type": "string",
                        "description": "a JSON object a line, as the rows are finished: first what the JSON "
                        "reply says beside its targets, then the targets, last {rows, failed, complete}",
                    }
                },
            },
        },
        **ERRORS,
    },
}


_TENSORS = {
    JSON: {"schema": {"type": "object"}},
    BINARY: {"schema": {"type": "string", "format": "binary", "description": "JSON, and tensors behind it"}},
}
_INFER: dict[str, Any] = {
    "summary": "Inference",
    "description": "The Open Inference Protocol v2; its other routes are as it has them. Every recipe is a "
    "model: {ensemble}.{recipe}, and {ensemble} is its default recipe.",
    "operationId": "infer",
    "parameters": [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}],
    "requestBody": {"required": True, "content": _TENSORS},
    "responses": {"200": {"description": "The outputs of all rows", "content": _TENSORS}, **ERRORS},
}


_SCHEMES = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "a key of the server's keys file; not looked at where the server has none",
    },
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "the same key"},
}


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document, made once."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schema["paths"][SOFT_TARGETS_PATH] = {"post": _SOFT_TARGETS}
        schema["paths"][INFER_PATH] = {"post": _INFER}
        schema.setdefault("components", {})["securitySchemes"] = _SCHEMES
        for path, operations in schema["paths"].items():
            for method, operation in operations.items():
                scope = ACCESS.get(f"{method.upper()} {path}", READ)
                operation["security"] = [{name: [scope]} for name in _SCHEMES] if scope else []
        app.openapi_schema = schema
    return app.openapi_schema
