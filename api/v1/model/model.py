"""Route of the card of the served models."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api.access.authenticate import Reports
from api.v1.model.card import ModelCard, card
from api.v1.model.chai import document
from api.v1.model.markdown import markdown

MARKDOWN, XML = "text/markdown", "application/xml"
FORMS = "Form of the card; `chai`: Applied Model Card of the Coalition for Health AI, XML, version 0.2."

router = APIRouter(prefix="/v1", tags=["model"])


@router.get(
    "/model",
    response_class=Response,
    responses={
        200: {"model": ModelCard, "content": {kind: {"schema": {"type": "string"}} for kind in (MARKDOWN, XML)}}
    },
)
def model_card(
    caller: Reports,
    form: Annotated[Literal["json", "markdown", "chai"], Query(alias="format", description=FORMS)] = "json",
) -> Response:
    """Return the card of the models that the living workers serve: use, limits, index, certificate."""
    found = card(caller.session)
    if form == "markdown":
        return Response(markdown(found), media_type=MARKDOWN)
    if form == "chai":
        return Response(document(found), media_type=XML)
    return Response(found.model_dump_json(), media_type="application/json")
