"""Route of the card of the served models."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response

from api.access.authenticate import Reports
from api.v1.model.card import ModelCard, card
from api.v1.model.markdown import markdown

router = APIRouter(prefix="/v1", tags=["model"])


@router.get(
    "/model",
    response_class=Response,
    responses={200: {"model": ModelCard, "content": {"text/markdown": {"schema": {"type": "string"}}}}},
)
def model_card(
    caller: Reports,
    form: Annotated[Literal["json", "markdown"], Query(alias="format", description="Form of the card.")] = "json",
) -> Response:
    """Return the card of the models that the living workers serve: use, limits, index, certificate."""
    found = card(caller.session)
    if form == "markdown":
        return Response(markdown(found), media_type="text/markdown")
    return Response(found.model_dump_json(), media_type="application/json")
