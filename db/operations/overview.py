"""Queries for display: work list, study, report, state of the installation.

Shared by the API and the command line, so that both show the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, exists, func, select, text, true

from db.models import Instance, Job, Report, ReportCheck, Study
from db.operations import heartbeats, queue_figures
from db.operations.filters import NO_FILTERS, Filters, Position, Sort, conditions_of_few, displayed_state
from db.operations.heartbeats import Role
from db.reports import list_marks
from db.session import compiled
from db.states import DisplayedState, JobKind, JobState
from db.studies.visibility import visible

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Callable, Collection, Sequence

    from sqlalchemy import CursorResult, Row, Select
    from sqlalchemy.orm import Session

#: Latest reports whose durations the forecast averages.
FORECAST_REPORTS = 50
#: Literals and one state at a time, so that each part uses its partial index. Canaries, at most a few, are subtracted:
#: to leave them out of the others, every study would have to be read.
COUNTS = text("""
    WITH open_jobs AS (
        SELECT 'queued' AS state, count(*) AS n FROM jobs WHERE state = 'queued' AND kind = 'report'
        UNION ALL SELECT 'running', count(*) FROM jobs WHERE state = 'running' AND kind = 'report'
    ), counted AS (
        SELECT state, count(*) AS n FROM studies WHERE state IN ('receiving', 'held') GROUP BY state
        UNION ALL SELECT state, n FROM open_jobs
        UNION ALL SELECT 'settled', greatest(count(*) - (SELECT CAST(coalesce(sum(n), 0) AS bigint) FROM open_jobs), 0)
            FROM studies WHERE state = 'settled'
        UNION ALL SELECT state, count(*) FROM studies
            WHERE state IN ('reported', 'not_reportable', 'failed', 'cancelled')
            AND first_received_at > now() - interval '24 hours' GROUP BY state
        UNION ALL SELECT CASE WHEN jobs.id IS NULL THEN studies.state ELSE jobs.state END, -count(*)
            FROM canaries JOIN studies USING (study_instance_uid)
            LEFT JOIN jobs ON studies.state = 'settled' AND jobs.study_id = studies.id AND jobs.kind = 'report'
                AND jobs.state IN ('queued', 'running')
            WHERE studies.state IN ('receiving', 'held', 'settled') OR first_received_at > now() - interval '24 hours'
            GROUP BY 1
    )
    SELECT state, greatest(CAST(sum(n) AS bigint), 0) FROM counted GROUP BY state
""")
LAST_ERROR = text("""
    SELECT coalesce(finished_at, claimed_at), study_id, reason, detail FROM jobs
    WHERE state IN ('failed', 'queued') AND reason <> 'operator'
    ORDER BY coalesce(finished_at, claimed_at) DESC LIMIT 1
""")


@dataclass(frozen=True, slots=True)
class ReportLine:
    """Current report of a study, as the work list shows it."""

    version: int
    basis: str
    created_at: dt.datetime
    #: True if images arrived after it.
    outdated: bool
    #: False: no check is stored with it, so that none could mark its study.
    checked: bool


@dataclass(slots=True)
class StudyLine:
    """A study, as the work list shows it. Not frozen, which would double the time to make a page of them."""

    id: uuid.UUID
    study_instance_uid: str
    identity_number: int
    state: DisplayedState
    modality: str
    body_part: str
    patient_id: str = field(repr=False)
    issuer_of_patient_id: str = field(repr=False)
    patient_name: str = field(repr=False)
    patient_birth_date: str = field(repr=False)
    patient_sex: str = field(repr=False)
    accession_number: str = field(repr=False)
    study_date: str = field(repr=False)
    study_description: str = field(repr=False)
    indication: str | None = field(repr=False)
    requested_procedure: str | None = field(repr=False)
    not_read: list[str]
    priority: int
    revision: int
    received_at: dt.datetime
    last_received_at: dt.datetime
    settled_at: dt.datetime | None
    settle_reason: str | None
    reason: str | None
    detail: str | None
    differs: list[str] | None
    report: ReportLine | None
    #: Why a person must look at its report, None if not read, and who has its page open (db.reports.list_marks).
    attention: Sequence[str] | None
    readers: Sequence[Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the work list; *following* is the position of the next one, None on the last."""

    studies: list[StudyLine]
    following: Position | None


@dataclass(frozen=True, slots=True)
class Content:
    """Received part of a study; *images* counts the reportable objects."""

    series: int
    instances: int
    images: int


@dataclass(frozen=True, slots=True)
class LastError:
    """Latest failed attempt; *at* is the end of its job, or the start of the attempt if the job is queued again."""

    at: dt.datetime
    study_id: uuid.UUID
    reason: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Overview:
    """State of the installation, from the database."""

    #: Number of studies by displayed state (`counts`).
    studies: dict[str, int]
    queue_depth: int
    oldest_waiting_seconds: float | None
    workers_alive: int
    last_error: LastError | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """Position of a report in the queue, from 1, and estimated *seconds* until it is written, if known."""

    position: int
    seconds: float | None


#: Columns of a study that a line shows, and their names there; the expression of its displayed state.
STUDY_COLUMNS = tuple(
    each
    for each in Study.__table__.columns
    if each.name in {*StudyLine.__dataclass_fields__, "first_received_at"} - {"state"}
)
NAMES = tuple(column.name.replace("first_received_at", "received_at") for column in STUDY_COLUMNS)
DISPLAYED_STATE = displayed_state().label("displayed_state")
CHECKED = exists().where(ReportCheck.report_id == Report.id).label("checked")
OF_REPORT = Report.version, Report.basis, Report.created_at, Report.revision.label("report_revision"), CHECKED


def _studies(
    *conditions: ColumnElement[bool], limit: int | None = None, sort: Sort = Sort.ARRIVAL, marks: bool = True
) -> Select[Any]:
    """Select the studies that meet *conditions*, in the order of *sort*: all else is read for these only."""
    shown = (
        # Columns and not objects, which take longer to make than the whole query.
        select(*STUDY_COLUMNS, DISPLAYED_STATE, Study.is_marked)
        .select_from(Study)
        .outerjoin(Job, and_(Job.study_id == Study.id, Job.revision == Study.revision, Job.kind == JobKind.REPORT))
        .where(*conditions)
        .order_by(*sort.order(Study))
        .limit(limit)
        .subquery("shown")
    )
    latest = select(Report.id, *OF_REPORT).where(Report.study_id == shown.c.id).order_by(Report.version.desc()).limit(1)
    newest = latest.lateral("newest")
    of_study = *(shown.c[column.name] for column in STUDY_COLUMNS), shown.c.displayed_state
    marked = list_marks.COLUMNS if marks else list_marks.NO_COLUMNS
    of_report = (newest.c[column.key] for column in OF_REPORT)
    return select(*of_study, *of_report, *marked).outerjoin(newest, true()).order_by(*sort.order(shown.c))


# Open work lists ask for the same page again and again: making the statement takes longer than to execute it.
@lru_cache(maxsize=64)
def _listed(limit: int, filters: Filters, after: Position | None, sort: Sort) -> Callable[[Session], CursorResult[Any]]:
    conditions = filters.conditions() + ([] if after is None else [sort.after(after)])
    return compiled(_studies(*conditions, limit=limit, sort=sort))


def _line(row: Row[Any]) -> StudyLine:
    values = dict(zip(NAMES, row, strict=False))
    state, version, basis, created_at, revision, checked, attention, readers = row[len(NAMES) :]
    outdated = version is not None and revision < values["revision"]
    report = None if version is None else ReportLine(version, basis, created_at, outdated, checked)
    return StudyLine(**values, state=DisplayedState(state), report=report, attention=attention, readers=readers or ())


def page(
    session: Session,
    *,
    limit: int,
    filters: Filters = NO_FILTERS,
    after: Position | None = None,
    sort: Sort = Sort.ARRIVAL,
) -> Page:
    """Return a page of studies that meet *filters*, in the order of *sort*, behind the position *after* if given."""
    behind = [] if after is None else [sort.after(after)]
    few, rows = conditions_of_few(session, filters), limit + 1
    if few is None:
        lines = [_line(row) for row in _listed(rows, filters, after, sort)(session)]
    else:
        lines = [_line(row) for row in session.execute(_studies(*few, *behind, limit=rows, sort=sort))]
    last = lines[limit - 1] if len(lines) > limit else None
    return Page(lines[:limit], None if last is None else Position(last.received_at, last.id, last.priority))


def study(
    session: Session, study_id: uuid.UUID, ae_titles: Collection[str] | None = None, *, marks: bool = False
) -> StudyLine | None:
    """Return one study; None if it does not exist or was sent by another than *ae_titles*."""
    row = session.execute(_studies(Study.id == study_id, *visible(ae_titles), marks=marks)).one_or_none()
    return None if row is None else _line(row)


def studies(
    session: Session, study_instance_uids: Collection[str], ae_titles: Collection[str] | None = None
) -> list[StudyLine]:
    """Return the received studies among these Study Instance UIDs, sent by *ae_titles*, the newest first."""
    query = _studies(Study.study_instance_uid.in_(list(study_instance_uids)), *visible(ae_titles))
    return [_line(row) for row in session.execute(query)]


def content(session: Session, study_id: uuid.UUID) -> Content:
    """Count the received series, objects and images of a study."""
    series, images = func.count(Instance.series_instance_uid.distinct()), func.count().filter(Instance.reportable)
    query = select(series, func.count(), images).where(Instance.study_id == study_id)
    return Content(*session.execute(query).one())


def overview(session: Session) -> Overview:
    """Return the studies by displayed state, the queue, the workers and the last error."""
    queue = queue_figures.waiting(session)
    return Overview(
        studies=counts(session),
        queue_depth=queue.jobs,
        oldest_waiting_seconds=queue.oldest_seconds if queue.jobs else None,
        workers_alive=len(heartbeats.alive(session, Role.WORKER)),
        last_error=last_error(session),
    )


def forecast(session: Session, study_id: uuid.UUID) -> Forecast | None:
    """Return the forecast of a study's report; None if its job is not queued."""
    current = and_(Study.id == Job.study_id, Study.revision == Job.revision)
    queued = Job.study_id == study_id, Job.state == JobState.QUEUED, Job.kind == JobKind.REPORT
    job = session.scalars(select(Job).join(Study, current).where(*queued)).one_or_none()
    if job is None:
        return None
    before = select(func.count()).select_from(Job).where(Job.state == JobState.QUEUED, Job.urgent_at < job.urgent_at)
    position = 1 + (session.scalar(before) or 0)
    seconds, slots = _seconds_per_report(session), _slots(session)
    # Pessimistic: every slot is busy once before the first job of the queue starts.
    rounds = None if not slots else 1 + -(-position // slots)
    return Forecast(position, None if seconds is None or rounds is None else rounds * seconds)


def _seconds_per_report(session: Session) -> float | None:
    took = (Job.finished_at - Job.claimed_at).label("took")
    # The last condition is that of the index.
    ended = Job.kind == JobKind.REPORT, Job.state == JobState.FINISHED, Job.finished_at.is_not(None)
    latest = select(took).where(*ended).order_by(Job.finished_at.desc()).limit(FORECAST_REPORTS).subquery()
    seconds = session.scalar(select(func.extract("epoch", func.avg(latest.c.took))))
    return None if seconds is None else float(seconds)


def _slots(session: Session) -> int:
    return sum(int(worker.info.get("slots", 1)) for worker in heartbeats.alive(session, Role.WORKER))


def counts(session: Session) -> dict[str, int]:
    """Count the studies by displayed state, also 0: all open ones, and the ended ones received in the last 24 hours."""
    # All ended ones would take longer with every year.
    return dict.fromkeys(map(str, DisplayedState), 0) | dict(session.execute(COUNTS).all())


def last_error(session: Session) -> LastError | None:
    """Return the latest failed attempt of an ended or queued job."""
    row = session.execute(LAST_ERROR).one_or_none()
    return None if row is None else LastError(*row)
