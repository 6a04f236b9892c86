"""The OpenAPI document: FastAPI's, with every status that a route can answer with, as RFC 9457 problems."""

from __future__ import annotations

from copy import deepcopy
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi

from api.errors import PROBLEM_JSON, Problem

if TYPE_CHECKING:
    from fastapi import FastAPI

#: Statuses of every operation; of those with a guard, of guarded GET and of POST.
ALL, GUARDED, READS, WRITES = (405, 500), (401, 403, 422, 429, 503), (304, 406), (409, 413, 415)
UNPROCESSABLE = "422"
#: FastAPI's own description of 422, which is not what is sent.
REPLACED = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Make the application publish this document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _made(app)
        return app.openapi_schema

    # FastAPI documents this way of extension.
    app.openapi = document  # type: ignore[method-assign]


def _made(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        separate_input_output_schemas=False,
    )
    for methods in made["paths"].values():
        for method, operation in methods.items():
            _complete(method, operation)
    schemas = made["components"]["schemas"]
    for methods in made["paths"].values():
        for operation in methods.values():
            schemas.update(_definitions(operation))
    for name in REPLACED:
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
    schemas.update(schemas["Problem"].pop("$defs", {}))
    return made


def _definitions(operation: dict[str, Any]) -> dict[str, Any]:
    """Take the schemas that the body of a request refers to out of it."""
    if "requestBody" not in operation:
        return {}
    # A copy: the routes keep theirs, for the next application.
    operation["requestBody"] = deepcopy(operation["requestBody"])
    body = operation["requestBody"]["content"].get("application/json", {})
    definitions: dict[str, Any] = body.get("schema", {}).pop("$defs", {})
    return definitions


def _complete(method: str, operation: dict[str, Any]) -> None:
    """Add the statuses that a route need not name, and describe all problems alike."""
    for parameter in operation.get("parameters", []):
        # Its absence is 428, which the route itself answers.
        is_condition = parameter["name"].lower() == "if-match" and "428" in operation["responses"]
        parameter["required"] = parameter["required"] or is_condition
    responses = operation["responses"]
    for status in _statuses(method, guarded="security" in operation):
        responses.setdefault(str(status), {"description": HTTPStatus(status).phrase})
    for status, answer in responses.items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        own = schema.get("$ref", "").endswith(("/Problem", *REPLACED))
        if int(status) >= HTTPStatus.BAD_REQUEST and (own or "content" not in answer):
            answer["content"] = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            answer["description"] = answer.get("description") or HTTPStatus(int(status)).phrase
    operation["responses"] = dict(sorted(responses.items()))


def _statuses(method: str, *, guarded: bool) -> tuple[int, ...]:
    if not guarded:
        return ALL
    return ALL + GUARDED + (READS if method == "get" else WRITES)
