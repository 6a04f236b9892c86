"""Pages: the work list, and one study with its images and report."""

import datetime as dt
import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from api.access.authenticate import Database, Reader
from api.page.templating import templates
from api.v1 import cursor, reading
from api.v1.studies import position
from db.operations import overview, quarantine
from db.operations.overview import Filters
from db.reports import reference_reports
from db.states import PENDING, DisplayedState

#: Studies on one page of the list: about two screens.
PAGE = 50
#: Files on the page of the quarantine.
QUARANTINED = 200

router = APIRouter(dependencies=[Reader], include_in_schema=False)


@router.get("/")
def worklist(
    request: Request,
    session: Database,
    state: Annotated[DisplayedState | None, Query()] = None,
    after: Annotated[str | None, Query()] = None,
) -> Response:
    """Show the work list, newest study first."""
    page = overview.page(session, limit=PAGE, filters=Filters(state=state), after=position(after))
    context = {
        "page": page,
        "following": None if page.following is None else cursor.encode(page.following),
        "first": after is None,
        "state": state,
        "system": overview.overview(session),
        "now": dt.datetime.now(dt.UTC),
    }
    return templates.TemplateResponse(request, "worklist.html", context)


@router.get("/quarantine")
def quarantined(request: Request, session: Database) -> Response:
    """Show the files in quarantine, the latest first."""
    context = {"files": quarantine.files(session, limit=QUARANTINED), "counts": quarantine.counts(session)}
    return templates.TemplateResponse(request, "quarantine.html", context)


@router.get("/studies/{study_id}")
def study(request: Request, session: Database, study_id: uuid.UUID) -> Response:
    """Show one study: patient, content, report and evidence."""
    line = reading.study(session, study_id)
    settings = request.app.state.settings
    data_dir = settings.operations.data_dir
    context = {
        "study": line,
        "content": overview.content(session, study_id),
        "report": reading.report(session, line, settings),
        "identities": sorted(
            overview.studies(session, [line.study_instance_uid]), key=lambda other: other.identity_number
        ),
        "quarantined": quarantine.conflicting(session, study_id),
        "pending": line.state in PENDING,
        "reference_report": reference_reports.read(data_dir, line.study_instance_uid),
    }
    return templates.TemplateResponse(request, "study.html", context)
