"""Pages: the work list, and one study with its images and report."""

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from api.access.authenticate import Caller, Feedback, Questions, Reports, Worklist, same_origin
from api.errors import ApiError
from api.page import course, facts, sentences
from api.page.search import Search, search
from api.page.templating import templates
from api.v1 import feedback, reading
from api.v1.inquiries import inquiries
from api.v1.requests import work_list
from api.v1.requests.conditional import etag
from api.v1.schemas import Report
from db.answers.answer import Question
from db.operations import overview, quarantine
from db.reports import feedback as stored_feedback
from db.reports import reference_reports, versions
from db.states import PENDING, DisplayedState, FeedbackKind

#: Studies on one page of the list: about two screens.
PAGE = 50
#: States of studies whose images are not complete, or not known to be of one patient.
NOT_ASKED = (DisplayedState.RECEIVING, DisplayedState.HELD)
#: Status of a report that is not the one its reader saw.
CHANGED = 412
#: Files on the page of the quarantine.
QUARANTINED = 200

#: Bytes of a form: an impression of 4000 characters, percent-encoded.
MAX_FORM_BYTES = 65_536

router = APIRouter(
    include_in_schema=False, form_limits={"max_fields": 3, "max_files": 0, "max_part_size": MAX_FORM_BYTES}
)


@router.get("/")
def worklist(
    request: Request,
    caller: Worklist,
    asked: Annotated[Search, Depends(search)],
    after: Annotated[str | None, Query()] = None,
) -> Response:
    """Show the work list: the studies that meet all filters of the search form."""
    own = work_list.cursors(caller, asked.filters, asked.sort)
    start = work_list.position(own, after)
    page = reading.page(caller, limit=PAGE, filters=asked.filters, after=start, sort=asked.sort)
    reading.mark(caller, page.studies, request.app.state.settings)
    context = {
        "page": page,
        "following": None if page.following is None else own.encode(page.following),
        "first": after is None,
        "search": asked,
        "system": overview.overview(caller.session),
        "now": dt.datetime.now(dt.UTC),
    }
    return templates.TemplateResponse(request, "worklist.html", context)


@router.get("/quarantine")
def quarantined(request: Request, caller: Worklist) -> Response:
    """Show the files in quarantine, the latest first."""
    seen = caller.principal.ae_titles
    files = quarantine.files(caller.session, limit=QUARANTINED, ae_titles=seen)
    caller.disclose({file.study_id for file in files if file.study_id is not None})
    context = {"files": files, "counts": quarantine.counts(caller.session, seen)}
    return templates.TemplateResponse(request, "quarantine.html", context)


@router.get("/studies/{study_id}")
def study(request: Request, caller: Reports, study_id: uuid.UUID, beside: uuid.UUID | None = None) -> Response:
    """Show one study: patient, content, report, evidence and questions; with *beside* another of the patient."""
    return _study(request, caller, study_id, beside=beside)


@router.get("/studies/{study_id}/versions")
def report_versions(request: Request, caller: Reports, study_id: uuid.UUID) -> Response:
    """Show the versions of a report and the final texts of readers, each with the words that differ."""
    line = reading.study(caller, study_id)
    reading.check_seal(caller, line, request.app.state.settings)
    rows = versions.all_of(caller.session, study_id)
    acts = stored_feedback.of_study(caller.session, study_id)
    return templates.TemplateResponse(request, "versions.html", {"study": line, "changes": course.changes(rows, acts)})


@router.post("/studies/{study_id}/questions", dependencies=[Depends(same_origin)])
def ask(request: Request, caller: Questions, study_id: uuid.UUID, question: Annotated[str, Form()] = "") -> Response:
    """Ask a question; show the study, with the reason if it cannot be asked."""
    reading.study(caller, study_id)
    try:
        inquiries.ask(caller, study_id, Question(question), "questions")
    except ApiError as error:
        if "reports" not in caller.principal.scopes:
            raise
        caller.access.status = error.status
        problem = f"Not asked: {error.problem.message}."
        return _study(request, caller, study_id, problem=problem, status=error.status)
    return _to(caller, f"/studies/{study_id}#questions")


@router.post("/studies/{study_id}/open", dependencies=[Depends(same_origin)])
def open_draft(request: Request, caller: Reports, study_id: uuid.UUID) -> Response:
    """Open a sealed draft after its images were seen."""
    return _opened(request, caller, study_id, lambda: feedback.open_sealed(caller, study_id))


@router.post("/studies/{study_id}/impression", dependencies=[Depends(same_origin)])
def impression(request: Request, caller: Feedback, study_id: uuid.UUID, text: Annotated[str, Form()] = "") -> Response:
    """Store the reader's own impression, which opens a sealed draft."""

    def store() -> None:
        words = text.replace("\r\n", "\n").strip()
        if not words or "\0" in words or len(words) > feedback.MAX_TEXT:
            raise work_list.invalid(f"expected an impression of 1 to {feedback.MAX_TEXT} characters")
        feedback.impress(caller, study_id, feedback.ImpressionRequest(text=words))

    return _opened(request, caller, study_id, store)


def _opened(request: Request, caller: Caller, study_id: uuid.UUID, act: Callable[[], object]) -> Response:
    reading.study(caller, study_id)
    try:
        act()
    except ApiError as error:
        if "reports" not in caller.principal.scopes:
            raise
        caller.access.status = error.status
        return _study(request, caller, study_id, problem=error.problem.message, status=error.status)
    return _to(caller, f"/studies/{study_id}")


@router.post("/studies/{study_id}/acknowledgement", dependencies=[Depends(same_origin)])
def acknowledge(request: Request, caller: Reports, study_id: uuid.UUID, tag: Annotated[str, Form()]) -> Response:
    """Store that the reader has seen the report as it is now, of which *tag* is the ETag; show it in any case."""
    try:
        feedback.act(request, caller, study_id, feedback.FeedbackRequest(kind=FeedbackKind.OPENED), tag)
    except ApiError as error:
        # Changed again: the page shows that state, and asks again if its version is another.
        if error.status != CHANGED:
            raise
    return _to(caller, f"/studies/{study_id}#report")


@router.post("/studies/{study_id}/sentences", dependencies=[Depends(same_origin)])
def judge(
    request: Request,
    caller: Feedback,
    study_id: uuid.UUID,
    sentence: Annotated[int, Form(ge=1, le=10_000)],
    kind: Annotated[Literal["accepted", "rejected"], Form()],
    tag: Annotated[str, Form()],
) -> Response:
    """Accept or reject a sentence of the report that the reader saw; *tag* is its ETag."""
    asked = feedback.FeedbackRequest(kind=FeedbackKind(kind), sentence=sentence)
    feedback.act(request, caller, study_id, asked, tag)
    return _to(caller, f"/studies/{study_id}#grounds-{sentence}")


def _to(caller: Caller, place: str) -> Response:
    caller.access.status = 303
    return RedirectResponse(place, 303)


def _study(
    request: Request,
    caller: Caller,
    study_id: uuid.UUID,
    *,
    beside: uuid.UUID | None = None,
    problem: str | None = None,
    status: int = 200,
) -> Response:
    """Show a study; the answer to a POST, with its *problem*, reads no file within the transaction."""
    settings = request.app.state.settings
    line = reading.marked_study(caller, study_id, settings)
    draft = reading.report(caller.session, line, settings)
    permitted = _permitted(caller, line)
    asked = (
        inquiries.of_study(caller, study_id, regions=settings.api.show_regions) if permitted["may_see_answers"] else []
    )
    sealed = bool(draft or asked) and reading.is_sealed(caller, line, settings)
    # The text of a sealed draft does not leave the server.
    report = None if sealed else draft
    data_dir = settings.operations.data_dir
    context = {
        **_of_study(caller, line, report),
        **_of_report(caller, line, report),
        **permitted,
        "viewer": course.viewer_link(settings.api.viewer_url, line),
        "beside": course.beside(caller, line, beside, settings) if beside else None,
        "sealed": settings.api.drafts if sealed else "",
        "sealed_images": draft.images if sealed and draft else [],
        "inquiries": [] if sealed else asked,
        "problem": problem,
        "reference_report": None if sealed or problem else reference_reports.read(data_dir, line.study_instance_uid),
    }
    return templates.TemplateResponse(request, "study.html", context, status)


def _of_study(caller: Caller, line: overview.StudyLine, report: Report | None) -> dict[str, Any]:
    """Return what the page shows of a study; *report* is None if there is none, or its reader may not have it."""
    identities = reading.identities(caller, line.study_instance_uid)
    return {
        "study": line,
        "others": course.others(caller, line),
        "identities": identities,
        "facts": facts.facts(line, report, identities, str(caller.principal)),
        "obstacle": facts.obstacle(line, report),
        "quarantined": quarantine.conflicting(caller.session, line.id),
        "pending": line.state in PENDING,
    }


def _of_report(caller: Caller, line: overview.StudyLine, report: Report | None) -> dict[str, Any]:
    """Return what the page shows of a report and of the acts of its readers."""
    acts = stored_feedback.of_study(caller.session, line.id) if report else ()
    content = overview.content(caller.session, line.id)
    return {
        "content": content,
        "receipts": course.receipts(line, content, report, acts),
        "report": report,
        "tag": etag(report.model_dump_json().encode()) if report else "",
        "acts": sentences.judged(acts, report.version) if report else {},
        "unseen": course.unseen(caller, acts, report) if report else None,
    }


def _permitted(caller: Caller, line: overview.StudyLine) -> dict[str, Any]:
    """Return what the caller may do on the page of a study."""
    scopes = caller.principal.scopes
    return {
        "may_see_images": "images" in scopes,
        "may_list": "worklist" in scopes,
        "may_judge": "feedback" in scopes,
        "may_see_answers": "questions" in scopes,
        "may_ask": "questions" in scopes and line.state not in NOT_ASKED,
    }
