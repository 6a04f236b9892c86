"""Events in the life of a study, read from the tables of every step; each by an index, or within a limit of days."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import ColumnElement, func, select, text

from db.models import (
    Answer,
    AuditRow,
    Commitment,
    Instance,
    Job,
    Quarantined,
    Report,
    ReportCheck,
    SpecialistReport,
    Study,
    StudyEvent,
)
from db.states import CheckState, JobState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

#: Rows of the audit log up to which all are read, and days after the arrival in which they are read above that.
MAX_AUDIT_ROWS, DAYS = 1_000_000, 31
#: Time after the last object within which a modality asks for its storage commitment.
COMMITMENT_TIME = dt.timedelta(days=1)
#: Kinds of StudyEvent that are not read from another table.
OWN_KINDS = ("state", "feedback", "hold", "release")
#: Rows of pg_class as estimated by the last ANALYZE; -1 before the first.
ESTIMATE = text("SELECT reltuples::bigint FROM pg_class WHERE oid = 'audit_rows'::regclass")


class Event(NamedTuple):
    """One event: when, what, a sentence without patient data, and its figures."""

    at: dt.datetime
    kind: str
    detail: str
    fields: dict[str, Any]


def of_study(session: Session, study: Study) -> list[Event]:
    """Return the events of a study, the oldest first."""
    found = [
        *_received(session, study),
        *_quarantined(session, study),
        *_specialist_reports(session, study),
        *_settled(study),
        *_changes(session, study),
        *_jobs(session, study),
        *_reports(session, study),
        *_answers(session, study),
        *_commitments(session, study),
        *_reads(session, study),
    ]
    return sorted(found, key=lambda event: event.at)


def reads_are_complete(session: Session) -> bool:
    """Return whether `of_study` reads the whole audit log: a large one has no index of studies."""
    return int(session.scalar(ESTIMATE) or 0) <= MAX_AUDIT_ROWS


def _received(session: Session, study: Study) -> Iterator[Event]:
    """Yield an event for each association that sent objects of a revision, at its first object."""
    group = Instance.association_id, Instance.calling_ae_title, Instance.called_ae_title, Instance.revision
    first, last = func.min(Instance.received_at), func.max(Instance.received_at)
    reportable, volume = func.count().filter(Instance.reportable), func.sum(Instance.file_bytes)
    query = select(*group, first, last, func.count(), reportable, volume).where(Instance.study_id == study.id)
    for association, sender, called, revision, begins, ends, objects, images, size in session.execute(
        query.group_by(*group)
    ):
        seconds = (ends - begins).total_seconds()
        detail = f"{objects} objects, {images} of them images, from {sender} to {called} in {seconds:.1f} s"
        fields = {"association": association, "calling_ae_title": sender, "called_ae_title": called}
        figures = {"objects": objects, "images": images, "bytes": int(size), "seconds": seconds, "revision": revision}
        yield Event(begins, "received", f"{detail} (association {association})", fields | figures)


def _quarantined(session: Session, study: Study) -> Iterator[Event]:
    """Yield the files in quarantine that have the SOP Instance UID of an object of the study."""
    known = select(Instance.sop_instance_uid).where(Instance.study_id == study.id)
    for file in session.scalars(select(Quarantined).where(Quarantined.sop_instance_uid.in_(known))):
        fields = {"file": file.file_path, "reason": file.reason, "detail": file.detail}
        yield Event(file.received_at, "quarantined", f"{file.reason}: {file.detail}", fields)


def _specialist_reports(session: Session, study: Study) -> Iterator[Event]:
    """Yield the structured reports that were read, with the reasons for what was not taken."""
    query = select(SpecialistReport, Instance.sop_instance_uid).join(Instance).where(Instance.study_id == study.id)
    for row, uid in session.execute(query):
        counts = {"predictions": row.predictions, "drafts": row.drafts}
        fields = {"sop_instance_uid": uid, **counts, "not_taken": row.reasons}
        without = f"; not taken: {'; '.join(row.reasons)}" if row.reasons else ""
        taken = ", ".join(f"{count} {name}" for name, count in counts.items())
        yield Event(row.read_at, "structured report", f"{taken}{without}", fields)


def _settled(study: Study) -> Iterator[Event]:
    if study.broken_off_at is not None:
        association = study.broken_association_id
        yield Event(study.broken_off_at, "broken off", f"association {association}", {"association": association})
    if study.settled_at is not None:
        detail = f"revision {study.revision}: {study.settle_reason}"
        yield Event(study.settled_at, "settled", detail, {"reason": study.settle_reason, "revision": study.revision})


def _changes(session: Session, study: Study) -> Iterator[Event]:
    """Yield the changes of state, and the acts of persons."""
    of_study = StudyEvent.study_id == study.id, StudyEvent.kind.in_(OWN_KINDS)
    for event in session.scalars(select(StudyEvent).where(*of_study).order_by(StudyEvent.id)):
        by = f" by {event.author}" if event.author else ""
        yield Event(event.at, event.kind, f"{event.detail}{by}", {"detail": event.detail, "author": event.author})


def _jobs(session: Session, study: Study) -> Iterator[Event]:
    """Yield queueing, last claim and end of each job; of earlier attempts, the row holds the number."""
    for job in session.scalars(select(Job).where(Job.study_id == study.id).order_by(Job.id)):
        fields = {"job": job.id, "job_kind": job.kind, "revision": job.revision}
        yield Event(job.queued_at, "queued", f"{job.kind} of revision {job.revision}, job {job.id}", fields)
        if job.sent_at is not None:
            yield Event(job.sent_at, "message sent", f"last wake-up message of job {job.id}", fields)
        claim = fields | {"attempt": job.attempt, "fence": job.fence, "worker": job.owner}
        if job.claimed_at is not None:
            detail = f"attempt {job.attempt} with fence {job.fence} by {job.owner or 'a worker'}, job {job.id}"
            yield Event(job.claimed_at, "claimed", detail, claim)
        yield from _end(job, claim)


def _end(job: Job, fields: dict[str, Any]) -> Iterator[Event]:
    why = f": {job.reason}, {job.detail}" if job.reason else ""
    result = {"state": job.state, "reason": job.reason, "detail": job.detail, "frames": job.frames}
    if job.finished_at is not None:
        yield Event(job.finished_at, "job ended", f"{job.state}{why}, job {job.id}", fields | result)
    elif job.state == JobState.QUEUED and job.reason:
        again = fields | result | {"available_at": job.available_at}
        yield Event(job.claimed_at or job.queued_at, "attempt failed", f"{job.reason}, {job.detail}", again)


def _reports(session: Session, study: Study) -> Iterator[Event]:
    """Yield each version with its checks that did not pass."""
    for report in session.scalars(select(Report).where(Report.study_id == study.id).order_by(Report.version)):
        checks = session.execute(
            select(ReportCheck.name, ReportCheck.state).where(ReportCheck.report_id == report.id).order_by("name")
        ).all()
        raised = [name for name, state in checks if state == CheckState.WARNING]
        detail = (
            f"version {report.version} under fence {report.fence}; checks that failed: {', '.join(raised) or 'none'}"
        )
        fields = {
            "report": report.id,
            "version": report.version,
            "revision": report.revision,
            "fence": report.fence,
            "job": report.job_id,
            "model": report.model_digest,
            "prompt_version": report.prompt_version,
            "calibration": report.calibration,
            "limitations": len(report.limitations),
            "checks": {check.name: check.state for check in checks},
        }
        yield Event(report.created_at, "report", detail, fields)


def _answers(session: Session, study: Study) -> Iterator[Event]:
    query = select(Job.kind, Answer.job_id, Answer.fence, Answer.created_at).join(Job, Job.id == Answer.job_id)
    for kind, job, fence, at in session.execute(query.where(Job.study_id == study.id)):
        yield Event(at, "answer", f"{kind} under fence {fence}, job {job}", {"job": job, "fence": fence})


def _commitments(session: Session, study: Study) -> Iterator[Event]:
    """Yield requests of storage commitment for objects of the study, and the delivery of their results."""
    uids = select(func.array_agg(Instance.sop_instance_uid)).where(Instance.study_id == study.id).scalar_subquery()
    until = study.last_received_at + COMMITMENT_TIME
    pairs = func.jsonb_path_query_array(Commitment.requested, text("'$[*][1]'"))
    query = select(Commitment).where(
        Commitment.received_at.between(study.first_received_at - dt.timedelta(hours=1), until),
        pairs.op("?|")(uids),
    )
    for row in session.scalars(query):
        fields = {"commitment": row.id, "calling_ae_title": row.calling_ae_title, "objects": len(row.requested)}
        yield Event(row.received_at, "commitment requested", f"by {row.calling_ae_title}", fields)
        result = fields | {"attempts": row.attempts, "failed": len(row.failed or ())}
        if row.delivered_at is not None:
            yield Event(row.delivered_at, "commitment delivered", f"after {row.attempts} failed attempts", result)
        if row.given_up_at is not None:
            yield Event(row.given_up_at, "commitment given up", row.detail or "", result)


def _reads(session: Session, study: Study) -> Iterator[Event]:
    """Yield the accesses of the API and the page to the study."""
    conditions: list[ColumnElement[bool]] = [AuditRow.studies.contains([study.id])]
    conditions += [AuditRow.at >= study.first_received_at - dt.timedelta(hours=1)]
    if not reads_are_complete(session):
        conditions += [AuditRow.at < study.first_received_at + dt.timedelta(days=DAYS)]
    columns = AuditRow.at, AuditRow.action, AuditRow.principal, AuditRow.status, AuditRow.route
    for at, action, principal, status, route in session.execute(select(*columns).where(*conditions)):
        fields = {"action": action, "principal": principal, "status": status, "route": route}
        yield Event(at, "read", f"{action} by {principal or 'an unknown caller'}, {status}", fields)
