"""Invariants of the database: every acknowledged study ends in exactly one state.

Each check is one query for the rows that violate a rule. Files on disk are checked by deploy.operate.audit.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, exists, func, not_, or_, select
from sqlalchemy.orm import aliased

from db.errors import Reason
from db.models import Answer, Commitment, Finding, Inquiry, Instance, Job, ProcedureStep, Report, ReportCheck, Study
from db.models.procedure_steps import IN_PROGRESS
from db.reports.versions import MARKING_VERDICTS
from db.states import INQUIRIES, OPEN_JOBS, Check, CheckState, JobKind, JobState, StudyState
from db.studies import commitments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class Violation:
    """A row or a file that violates a rule."""

    rule: str
    subject: str


#: Time after which a transition is overdue: dispatcher and workers need seconds, a backlog has a day.
LEASE_OVERDUE = dt.timedelta(hours=1)
COMMITMENT_OVERDUE = commitments.GIVE_UP_AFTER + dt.timedelta(days=1)
STEP_OVERDUE = dt.timedelta(days=7)

RESULT_ENDS = f"a storage commitment result is delivered or given up within {COMMITMENT_OVERDUE.days} days"
STEP_ENDS = f"a procedure step ends within {STEP_OVERDUE.days} days"


def check(session: Session, max_attempts: int | None = None) -> list[Violation]:
    """Return every violation; each rule is one statement, and so sees one moment."""
    found = *_studies(session), *_identities(session), *_jobs(session), *_reports(session), *_overdue(session)
    return [*found, *_inquiries(session), *_instances(session), *_attempts(session, max_attempts)]


def _studies(session: Session) -> Iterator[Violation]:
    job = and_(Job.study_id == Study.id, Job.revision == Study.revision, Job.kind == JobKind.REPORT)
    query = select(Study.id).outerjoin(Job, job)
    rules: dict[str, ColumnElement[bool]] = {
        "a receiving study has no job of its revision": and_(Study.state == StudyState.RECEIVING, Job.id.is_not(None)),
        "a settled study has one open job": and_(
            Study.state == StudyState.SETTLED, or_(Job.id.is_(None), not_(Job.state.in_(OPEN_JOBS)))
        ),
        "a reported study's job is finished": and_(
            Study.state == StudyState.REPORTED, or_(Job.id.is_(None), Job.state != JobState.FINISHED)
        ),
        "a failed or cancelled study has a job in the same state": and_(
            Study.state.in_((StudyState.FAILED, StudyState.CANCELLED)),
            Study.reason.is_distinct_from(Reason.IDENTITY_REFUSED),
            or_(Job.id.is_(None), Job.state != Study.state),
        ),
        "a held study has no open job": and_(Study.state == StudyState.HELD, Job.state.in_(OPEN_JOBS)),
        "a refused identity has no job": and_(Study.reason == Reason.IDENTITY_REFUSED, Job.id.is_not(None)),
        "a not reportable study has no images or a not reportable job": and_(
            Study.state == StudyState.NOT_REPORTABLE,
            Study.reason != Reason.NO_IMAGES,
            or_(Job.id.is_(None), Job.state != Study.state),
        ),
    }
    for rule, violated in rules.items():
        yield from (Violation(rule, f"study {study_id}") for study_id in session.scalars(query.where(violated)))


def _identities(session: Session) -> Iterator[Violation]:
    first, other = aliased(Study), aliased(Study)
    orphans = (
        select(Study.id)
        .outerjoin(first, and_(first.study_instance_uid == Study.study_instance_uid, first.identity_number == 1))
        .where(first.id.is_(None))
    )
    for study_id in session.scalars(orphans):
        yield Violation("a Study Instance UID has a first identity", f"study {study_id}")
    held = other.state == StudyState.HELD, other.study_instance_uid == Study.study_instance_uid, other.id != Study.id
    alone = select(Study.id).where(Study.state == StudyState.HELD, ~exists().where(*held))
    for study_id in session.scalars(alone):
        yield Violation("a held study has another held identity", f"study {study_id}")
    reasons = or_(Study.reason.is_distinct_from(Reason.IDENTITY_CONFLICT), Study.differs.is_(None))
    for study_id in session.scalars(select(Study.id).where(Study.state == StudyState.HELD, reasons)):
        yield Violation("a held study names its conflict", f"study {study_id}")


def _jobs(session: Session) -> Iterator[Violation]:
    outdated = (
        select(Job.id)
        .join(Study, Study.id == Job.study_id)
        .where(Job.state.in_(OPEN_JOBS), Job.kind == JobKind.REPORT)
        .where(or_(Job.revision != Study.revision, Study.state != StudyState.SETTLED))
    )
    for job_id in session.scalars(outdated):
        yield Violation("an open report job belongs to a settled study's revision", f"job {job_id}")
    unreported = (
        select(Job.id)
        .outerjoin(Report, Report.job_id == Job.id)
        .where(and_(Job.state == JobState.FINISHED, Job.kind == JobKind.REPORT) != Report.id.is_not(None))
    )
    for job_id in session.scalars(unreported):
        yield Violation("exactly the finished report jobs have a report", f"job {job_id}")


def _inquiries(session: Session) -> Iterator[Violation]:
    jobs = select(Job.id).join(Study, Study.id == Job.study_id)
    jobs = jobs.outerjoin(Inquiry, Inquiry.job_id == Job.id).outerjoin(Answer, Answer.job_id == Job.id)
    asked = Job.kind.in_(INQUIRIES)
    # Of every rule: the studies of report jobs need not be read.
    jobs = jobs.where(or_(asked, Inquiry.job_id.is_not(None), Answer.job_id.is_not(None)))
    rules: dict[str, ColumnElement[bool]] = {
        "exactly the jobs of inquiries have an inquiry": asked != Inquiry.job_id.is_not(None),
        "an inquiry has the study and the kind of its job": or_(
            Inquiry.study_id != Job.study_id, Inquiry.kind != Job.kind
        ),
        "exactly the finished jobs of inquiries have an answer": and_(asked, Job.state == JobState.FINISHED)
        != Answer.job_id.is_not(None),
        "an answer was written under its job's last fence": or_(
            Answer.fence != Job.fence, Answer.revision != Job.revision
        ),
        "the job of an inquiry belongs to a revision that its study has begun": and_(
            asked, Job.revision > Study.revision
        ),
        "a held study has no open inquiry": and_(asked, Job.state.in_(OPEN_JOBS), Study.state == StudyState.HELD),
    }
    for rule, violated in rules.items():
        yield from (Violation(rule, f"job {job_id}") for job_id in session.scalars(jobs.where(violated)))


def _reports(session: Session) -> Iterator[Violation]:
    stale = (
        select(Report.id)
        .join(Job, Job.id == Report.job_id)
        .where(or_(Report.fence != Job.fence, Report.revision != Job.revision, Report.study_id != Job.study_id))
    )
    for report_id in session.scalars(stale):
        yield Violation("a report was written under its job's last fence", f"report {report_id}")
    gaps = select(Report.study_id).group_by(Report.study_id).having(func.max(Report.version) != func.count())
    for study_id in session.scalars(gaps):
        yield Violation("a study's report versions are 1, 2, ...", f"study {study_id}")
    newest = select(Report.study_id, func.max(Report.version).label("version")).group_by(Report.study_id).subquery()
    known = select(Study.id).outerjoin(newest, newest.c.study_id == Study.id)
    for study_id in session.scalars(known.where(Study.report_version != func.coalesce(newest.c.version, 0))):
        yield Violation("a study has the version of its current report", f"study {study_id}")
    # A study marked without a reason only costs a reader a look.
    current = and_(Report.study_id == Study.id, Report.version == Study.report_version)
    critical = and_(ReportCheck.state == CheckState.NOTICE, ReportCheck.name == Check.CRITICAL)
    failed = or_(ReportCheck.state == CheckState.WARNING, critical)
    checks = exists().where(ReportCheck.report_id == Report.id, failed)
    verdicts = exists().where(Finding.report_id == Report.id, Finding.verdict.in_(MARKING_VERDICTS))
    unmarked = select(Study.id).join(Report, current).where(~Study.is_marked, or_(checks, verdicts))
    for study_id in session.scalars(unmarked):
        yield Violation("a study is marked if a check or verdict of its current report is", f"study {study_id}")


def _instances(session: Session) -> Iterator[Violation]:
    later = select(Instance.id).join(Study, Study.id == Instance.study_id).where(Instance.revision > Study.revision)
    for instance_id in session.scalars(later):
        yield Violation("an instance belongs to a revision that its study has begun", f"instance {instance_id}")
    empty = select(Study.id).where(Study.state == StudyState.RECEIVING, ~exists().where(Instance.study_id == Study.id))
    for study_id in session.scalars(empty):
        yield Violation("a receiving study has an instance", f"study {study_id}")


def _attempts(session: Session, max_attempts: int | None) -> Iterator[Violation]:
    if max_attempts is None:
        return
    beyond = select(Job.id).where(Job.state.in_(OPEN_JOBS), Job.attempt > max_attempts)
    for job_id in session.scalars(beyond):
        yield Violation("an open job has at most PRELIM_MAX_ATTEMPTS attempts", f"job {job_id}")


def _overdue(session: Session) -> Iterator[Violation]:
    """Yield the transitions that are overdue."""
    now = func.now()
    leases = select(Job.id).where(Job.state == JobState.RUNNING, Job.lease_until < now - LEASE_OVERDUE)
    for job_id in session.scalars(leases):
        yield Violation("a job is rescued soon after the end of its lease", f"job {job_id}")
    undelivered = Commitment.delivered_at.is_(None), Commitment.given_up_at.is_(None)
    results = select(Commitment.id).where(*undelivered, Commitment.received_at < now - COMMITMENT_OVERDUE)
    for commitment_id in session.scalars(results):
        yield Violation(RESULT_ENDS, f"commitment {commitment_id}")
    steps = select(ProcedureStep.sop_instance_uid).where(
        ProcedureStep.state == IN_PROGRESS, ProcedureStep.updated_at < now - STEP_OVERDUE
    )
    for uid in session.scalars(steps):
        yield Violation(STEP_ENDS, f"procedure step {uid}")
