"""Routes of studies: the work list, one study, its events."""

import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from api.access.authenticate import Worklist
from api.errors import Problem
from api.v1 import reading
from api.v1.acts import Event
from api.v1.requests import work_list
from api.v1.schemas import StudyPage, StudyWithContent
from db.operations import history
from db.operations.filters import Filters, Sort

#: Studies on one page.
MAX_PAGE = 100

router = APIRouter(prefix="/v1", tags=["studies"])
_missing: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}


@router.get("/studies", response_class=Response, responses={200: {"model": StudyPage}})
def list_studies(
    request: Request,
    caller: Worklist,
    filters: Annotated[Filters, Depends(work_list.filters)],
    sort: Annotated[Sort, Query(description="Newest first; longest waiting first; most urgent first.")] = Sort.ARRIVAL,
    after: Annotated[work_list.Cursor | None, Query(description="`next` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> Response:
    """Return the work list: studies that meet all filters, in pages; a cursor belongs to its filters and order."""
    own = work_list.cursors(caller, filters, sort)
    page = reading.page(caller, limit=limit, filters=filters, after=work_list.position(own, after), sort=sort)
    following = None if page.following is None else own.encode(page.following)
    reading.mark(caller, page.studies, request.app.state.settings)
    body = StudyPage.model_validate({"studies": page.studies, "next": following})
    return Response(body.model_dump_json(), media_type="application/json", headers=work_list.link(request, following))


@router.get("/studies/{study_id}", responses=_missing)
def one_study(request: Request, caller: Worklist, study_id: uuid.UUID) -> StudyWithContent:
    """Return the current state of one study."""
    line = reading.marked_study(caller, study_id, request.app.state.settings)
    return reading.with_content(caller.session, line)


@router.get("/studies/{study_id}/events", responses=_missing)
def study_events(caller: Worklist, study_id: uuid.UUID) -> list[Event]:
    """Return the events of a study, the oldest first: states, report versions, feedback, holds."""
    reading.study(caller, study_id)
    return [Event.model_validate(row) for row in history.of_study(caller.session, study_id)]
