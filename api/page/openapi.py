"""Show the reference of the API as one plain page; FastAPI's own loads external scripts."""

from typing import Any

from fastapi import APIRouter, Request, Response

from api.errors import ErrorCode, NotFound
from api.page.templating import templates

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def reference(request: Request) -> Response:
    """Show every endpoint with its parameters and responses, from the OpenAPI document."""
    document: dict[str, Any] = request.app.openapi()
    operations = [
        {"method": method.upper(), "path": path, **operation}
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    context = {"info": document["info"], "operations": operations, "schemas": document["components"]["schemas"]}
    return templates.TemplateResponse(request, "reference.html", context)


@router.get("/docs/problems/{code}")
def problem(request: Request, code: str) -> Response:
    """Show the meaning of a problem's code; the `type` of a problem leads here."""
    if code not in list(ErrorCode):
        raise NotFound("unknown code", "see /docs for the statuses of each endpoint")
    return templates.TemplateResponse(request, "problem.html", {"code": ErrorCode[code.upper()]})
