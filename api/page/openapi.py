"""Show the reference of the API as one plain page; FastAPI's own loads external scripts."""

from typing import Any

from fastapi import APIRouter, Request, Response

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
