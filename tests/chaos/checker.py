"""Check the invariants after a run: client history, database, stored files and recorded transitions."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from sqlalchemy import func, select, text

from db.models import Instance, Report, Study
from db.session import transaction
from deploy.operate import audit, report_images
from dicom_listener.recovery.noted_timeline import current_timeline, noted
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.chaos.children import POISONED
from tests.chaos.modality import PIXELS
from tests.chaos.system import MEMORY_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from db.operations.invariants import Violation
    from tests.chaos.modality import History, PlannedStudy
    from tests.chaos.system import System

ENDS = ("reported", "not_reportable", "failed", "cancelled")
#: The named transitions of a study; into `receiving` only with the next revision.
STUDY_TRANSITIONS = (
    {("receiving", "settled"), ("receiving", "not_reportable"), ("settled", "receiving")}
    | {("settled", end) for end in ENDS}
    | {(end, "receiving") for end in ENDS}
)
JOB_TRANSITIONS = {("queued", "running"), ("running", "queued"), ("queued", "superseded"), ("queued", "cancelled")} | {
    ("running", end) for end in ("finished", "not_reportable", "failed", "superseded", "cancelled")
}
RECORD = """
CREATE TABLE chaos_history (
    number bigserial, kind text, row_id uuid, before text, after text, count_before bigint, count_after bigint,
    owner text, reason text, changed_at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION chaos_study() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_history (kind, row_id, before, after, count_before, count_after)
    VALUES ('study', NEW.id, OLD.state, NEW.state, OLD.revision, NEW.revision); RETURN NULL; END $$;
CREATE FUNCTION chaos_job() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos_history (kind, row_id, before, after, count_before, count_after, owner, reason)
    VALUES ('job', NEW.id, OLD.state, NEW.state, OLD.fence, NEW.fence, OLD.owner, NEW.reason); RETURN NULL; END $$;
CREATE TRIGGER chaos AFTER UPDATE ON studies FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR OLD.revision <> NEW.revision) EXECUTE FUNCTION chaos_study();
CREATE TRIGGER chaos AFTER UPDATE ON jobs FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR OLD.fence <> NEW.fence) EXECUTE FUNCTION chaos_job();
"""

#: Owner of each finished job.
FINISHED_BY = text("SELECT owner FROM chaos_history WHERE kind = 'job' AND after = 'finished'")


def record_transitions(system: System) -> None:
    """Record every change of state in the database; call before the first one."""
    with transaction(system.url) as session:
        session.execute(text(RECORD))


def all_ended(system: System, studies: list[PlannedStudy]) -> bool:
    """Return whether all work is done: every study ended, no file in the inbox, and all rows that a failover lost."""
    spool = Spool(system.settings.spool)
    with transaction(system.url) as session:
        ended = session.scalar(select(func.count()).select_from(Study).where(Study.state.in_(ENDS)))
        current = current_timeline(session)
    is_recovered = noted(spool.timeline) == current
    return is_recovered and ended == len(studies) and not any(received(spool))


def violations(system: System, studies: list[PlannedStudy], history: History) -> list[str]:
    """Return every violation as text."""
    with transaction(system.url) as session:
        found = [
            *_sent(studies, history),
            *_acknowledged(session, history),
            *_ends(session, studies),
            *_transitions(session),
            *_poisoned(session, system, studies),
        ]
    found += [f"{violation.rule}: {violation.subject}" for violation in _audited(system)]
    found += [f"{name} grew to {used} bytes" for name, used in system.memory.items() if used > MEMORY_LIMIT]
    return found


def _audited(system: System) -> list[Violation]:
    """Return the violations without the files of reports that were not stored, which the audit removes."""
    found = audit.check(system.settings)
    unused = [violation for violation in found if violation.rule == report_images.UNUSED]
    removed = [violation for violation in unused if audit.repair_violation(system.settings, violation)]
    return [violation for violation in found if violation not in removed]


def _sent(studies: list[PlannedStudy], history: History) -> Iterator[str]:
    """Yield unacknowledged objects: a run in which a sender gave up proves nothing."""
    for study in studies:
        left = study.objects().keys() - history.acknowledged.keys()
        if left:
            yield f"{len(left)} objects of {study.kind} study {study.uid} were never acknowledged"


def _acknowledged(session: Session, history: History) -> Iterator[str]:
    rows: dict[str, str] = dict(session.execute(select(Instance.sop_instance_uid, Instance.sha256)).all())  # type: ignore[arg-type]
    for uid, digest in history.acknowledged.items():
        if rows.get(uid) != digest:
            yield f"acknowledged object {uid} {'has another digest' if uid in rows else 'is lost'}"


def _ends(session: Session, studies: list[PlannedStudy]) -> Iterator[str]:
    current = select(func.max(Report.revision)).where(Report.study_id == Study.id).scalar_subquery()
    rows = {row.study_instance_uid: row for row in session.execute(select(*_COLUMNS, current.label("reported")))}
    for study in studies:
        row = rows.get(study.uid)
        if row is None:
            yield f"{study.kind} study {study.uid} is lost"
        elif not _has_valid_end(study.kind, row):
            yield f"{study.kind} study {study.uid} is {row.state} at revision {row.revision}: {row.reason}"


_COLUMNS = (Study.study_instance_uid, Study.state, Study.revision, Study.reason)


def _has_valid_end(kind: str, row: Row[tuple[str, str, int, str | None, int]]) -> bool:
    if kind == "poison":
        return row.state == "failed" and row.reason == "worker_lost"
    if kind == "stuck":
        # Unless its worker is killed or frozen in its last attempt.
        return row.state == "failed" and row.reason in ("no_progress", "worker_lost", "lease_expired")
    if kind == "document":
        return row.state == "not_reportable" and row.reason == "no_images"
    # A harmless study may run out of attempts if its worker is killed in each; it then has the reason.
    return (row.state == "reported" and row.reported == row.revision) or (row.state, row.reason) == (
        "failed",
        "worker_lost",
    )


LOST = """
    SELECT study_instance_uid, row_id, chaos_history.owner, changed_at
    FROM chaos_history JOIN jobs ON jobs.id = row_id JOIN studies ON studies.id = jobs.study_id
    WHERE chaos_history.kind = 'job' AND before = 'running' AND after IN ('queued', 'failed')
        AND chaos_history.reason IN ('lease_expired', 'worker_lost')
"""


def _poisoned(session: Session, system: System, studies: list[PlannedStudy]) -> Iterator[str]:
    """Yield harmless studies of which a job lost more than one attempt to poison: after the first, it runs alone."""
    died = {
        path.name.removeprefix(POISONED): path.stat().st_mtime
        for path in system.settings.operations.data_dir.glob(f"{POISONED}*")
    }
    lost = Counter(
        (row.study_instance_uid, row.row_id)
        for row in session.execute(text(LOST))
        if row.changed_at.timestamp() >= died.get(row.owner.rpartition(":")[2], math.inf)
    )
    harmless = {study.uid: study.kind for study in studies if study.kind not in PIXELS}
    for (uid, _job), times in lost.items():
        if times > 1 and uid in harmless:
            yield f"{harmless[uid]} study {uid} lost {times} attempts of a job to poison studies"


def _transitions(session: Session) -> Iterator[str]:
    for row in session.execute(text("SELECT * FROM chaos_history ORDER BY number")):
        step = (row.before, row.after)
        grown = row.count_after - row.count_before
        if row.kind == "study":
            named = step in STUDY_TRANSITIONS and grown == (row.after == "receiving")
        else:
            named = step in JOB_TRANSITIONS and grown == (row.after == "running")
        if not named:
            yield f"{row.kind} {row.row_id} went {row.before} -> {row.after}, its counter grew by {grown}"


def collateral_failures(system: System, studies: list[PlannedStudy]) -> int:
    """Return the number of harmless studies that ran out of attempts."""
    harmless = [study.uid for study in studies if study.kind not in (*PIXELS, "document")]
    with transaction(system.url) as session:
        count = (
            select(func.count())
            .select_from(Study)
            .where(Study.state == "failed", Study.study_instance_uid.in_(harmless))
        )
        return session.scalar(count) or 0
