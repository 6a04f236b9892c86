"""Life of a study: each transition is one function and one conditional UPDATE.

    receiving -> settled -> reported | not_reportable | failed | cancelled
        ^__________________________________| late images: revision + 1

While a study is `settled`, its job is queued or running (db.jobs.claims). While it is `held`, a person decides about
its identity (db.studies.identity.conflicts).
"""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import delete, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from db.errors import Reason, UnknownStudy
from db.models import Instance, Job, Quarantined, Report, Study
from db.models.base import any_of, given
from db.states import JobState, StudyState
from db.studies import priority, revisions, transfers
from db.studies.identity import conflicts, identity

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.orm import Session

#: Seconds from which a delay is given in minutes.
SHOWN_IN_MINUTES = 120


@dataclass(frozen=True, slots=True)
class StudyAttributes:
    """Attributes of a study in the header of an object; the first value of each that is not empty is stored."""

    study_instance_uid: str
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = field(default="", repr=False)
    patient_birth_date: str = field(default="", repr=False)
    patient_sex: str = ""
    accession_number: str = field(default="", repr=False)
    study_date: str = ""
    study_description: str = field(default="", repr=False)
    #: Of all objects, the distinct ones (db.studies.imaging_request).
    indication: str = field(default="", repr=False)
    requested_procedure: str = field(default="", repr=False)
    #: Attributes above that are empty because the value in the header is too long to be read.
    not_read: Sequence[str] = ()
    #: db.studies.priority: greater is more urgent, 0 is routine.
    priority: int = 0
    #: Number of Study Related Instances (0020,1208), if the sender gave it.
    announced: int | None = None


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """A durable file with the attributes the indexer read from it."""

    study: StudyAttributes = field(repr=False)
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    series_instance_uid: str
    modality: str
    reportable: bool
    file_path: str
    file_bytes: int
    sha256: str
    received_at: dt.datetime
    body_part: str = ""
    series_number: int | None = None
    instance_number: int | None = None
    association_id: str = ""
    calling_ae_title: str = ""
    called_ae_title: str = ""
    #: When its file is to be moved to the object storage; None without one.
    storage_due_at: dt.datetime | None = None


#: Studies that an ambiguous name lists: an accession number has a few.
MAX_NAMED = 10


class RevisionRef(Protocol):
    """Reference to a revision of a study: a job, or the claim on one."""

    @property
    def study_id(self) -> uuid.UUID: ...  # noqa: D102
    @property
    def revision(self) -> int: ...  # noqa: D102


class Recorded(enum.Enum):
    """Result of recording a received file."""

    NEW = "new"
    #: The file has its row: an earlier run crashed between commit and clean-up.
    ALREADY_INDEXED = "already indexed"
    #: Another file holds the same object; this one can be deleted.
    DUPLICATE = "duplicate"
    #: Another file holds a different object with the same SOP Instance UID; the first is kept.
    CONFLICT = "conflict"


def record_instance(session: Session, received: ReceivedInstance) -> Recorded:
    """Insert the row of a durable file exactly once; a late image opens a new revision of its study."""
    known = _known(session, received)
    if known is not None:
        if known is Recorded.DUPLICATE:
            transfers.repeat(session, received.sop_instance_uid, received.association_id)
        return known
    study = conflicts.locked_study(session, received)
    inserted = _insert(session, received, study)
    if inserted is None:
        # Another indexer inserted it since it was looked up.
        return _known(session, received) or Recorded.CONFLICT
    if received.reportable:
        _reopen(session, study, inserted)
    note_arrival(session, study, received)
    return Recorded.NEW


def note_arrival(session: Session, study: Study, received: ReceivedInstance) -> None:
    """Give a locked study the values of an instance that was inserted; its quiet time begins again."""
    transfers.resume(session, study, received.association_id)
    study.last_received_at = func.clock_timestamp()
    if received.reportable:
        study.modality = study.modality or received.modality
        study.body_part = study.body_part or received.body_part
    _raise_priority(session, study, priority.highest(study.priority, received.study.priority))
    study.announced = max(study.announced or 0, received.study.announced or 0) or None


def _raise_priority(session: Session, study: Study, level: int) -> None:
    """Raise the priority of a locked study, and of its queued jobs below that."""
    if level <= study.priority:
        return
    study.priority = level
    queued = update(Job).where(Job.study_id == study.id, Job.state == JobState.QUEUED, Job.priority < level)
    earlier = dt.timedelta(seconds=priority.CLASS_SECONDS * level)
    session.execute(queued.values(priority=level, urgent_at=Job.queued_at - earlier))


def _known(session: Session, received: ReceivedInstance) -> Recorded | None:
    row = session.execute(
        select(Instance.file_path, Instance.sha256).where(Instance.sop_instance_uid == received.sop_instance_uid)
    ).one_or_none()
    if row is None:
        return None
    if row.file_path == received.file_path:
        return Recorded.ALREADY_INDEXED
    return Recorded.DUPLICATE if row.sha256 == received.sha256 else Recorded.CONFLICT


def _reopen(session: Session, study: Study, inserted: uuid.UUID) -> None:
    """Begin a new revision if the instance *inserted* is late, and move it there."""
    revision = study.revision
    revisions.reopen(session, study)
    if study.revision != revision:
        session.execute(update(Instance).where(Instance.id == inserted).values(revision=study.revision))


def _insert(session: Session, received: ReceivedInstance, study: Study) -> uuid.UUID | None:
    return session.scalars(
        insert(Instance).values(values_of(received, study)).on_conflict_do_nothing().returning(Instance.id)
    ).one_or_none()


def values_of(received: ReceivedInstance, study: Study) -> dict[str, object]:
    """Return the columns of the row of a received file that belongs to *study*."""
    columns = {name: getattr(received, name) for name in ReceivedInstance.__dataclass_fields__ if name != "study"}
    identified = identity.is_identified(identity.of(received.study))
    return columns | {"study_id": study.id, "revision": study.revision, "identified": identified}


def instances(session: Session, sop_instance_uids: Collection[str]) -> dict[str, Instance]:
    """Return the stored instances among these objects, by SOP Instance UID."""
    rows = session.scalars(select(Instance).where(Instance.sop_instance_uid == any_of(sop_instance_uids)))
    return {row.sop_instance_uid: row for row in rows}


def stored(session: Session, file_paths: Collection[str]) -> set[str]:
    """Return those of these paths that are the file of an instance."""
    return set(session.scalars(select(Instance.file_path).where(Instance.file_path == any_of(file_paths))))


def quarantine(session: Session, file: Quarantined) -> None:
    """Insert the row of an acknowledged file that became no instance; repeating it changes nothing."""
    session.execute(insert(Quarantined).values(given(file)).on_conflict_do_nothing(index_elements=["file_path"]))


def release(session: Session, file_paths: Collection[str]) -> set[str]:
    """Delete the rows of files that the disk can read again, which become instances; return their paths."""
    readable = Quarantined.file_path == any_of(file_paths), Quarantined.reason == Reason.FILE_ERROR
    return set(session.scalars(delete(Quarantined).where(*readable).returning(Quarantined.file_path)))


def late_arrivals(session: Session, study_id: uuid.UUID, revision: int) -> list[str]:
    """Describe the images since the last report: "32 images of series 4 arrived 14 min later".

    Revisions without a report do not count: their images are new to the reader. Empty before the first report.
    """
    if revision == 1:
        return []
    reported = session.scalar(
        select(func.max(Report.revision)).where(Report.study_id == study_id, Report.revision < revision)
    )
    return [] if reported is None else _since(session, study_id, reported, revision)


def _since(session: Session, study_id: uuid.UUID, reported: int, revision: int) -> list[str]:
    earlier = session.scalar(
        select(func.max(Instance.received_at)).where(Instance.study_id == study_id, Instance.revision <= reported)
    )
    late = session.execute(
        select(Instance.series_number, func.count(), func.min(Instance.received_at))
        .where(Instance.study_id == study_id, Instance.reportable)
        .where(Instance.revision > reported, Instance.revision <= revision)
        .group_by(Instance.series_instance_uid, Instance.series_number)
        .order_by(Instance.series_number)
    )
    if earlier is None:
        return []
    return [_late(number, count, (first - earlier).total_seconds()) for number, count, first in late]


def _late(series_number: int | None, images: int, seconds: float) -> str:
    series = "a series" if series_number is None else f"series {series_number}"
    after = f"{seconds / 60:.0f} min" if seconds >= SHOWN_IN_MINUTES else f"{max(seconds, 0):.0f} s"
    return f"{images} image{'' if images == 1 else 's'} of {series} arrived {after} later"


def lock(session: Session, study_id: uuid.UUID) -> None:
    """Lock a study. It is locked before its job, by every transaction that changes both, to avoid deadlocks."""
    session.execute(select(Study.id).where(Study.id == study_id).with_for_update())


def end(session: Session, ended: RevisionRef, state: StudyState, *, reason: Reason, detail: str) -> None:
    """End a settled study without a report; nothing happens if a newer revision has begun."""
    session.execute(
        update(Study)
        .where(Study.id == ended.study_id, Study.revision == ended.revision, Study.state == StudyState.SETTLED)
        .values(state=state, reason=reason, detail=detail)
    )


def find(session: Session, name: str, *, lock: bool = False) -> Study:
    """Return the study with this id, Study Instance UID or accession number; of several identities the first.

    Raises UnknownStudy if no study, or more than one, matches.
    """
    named = [
        Study.study_instance_uid == name,
        # With the condition of the index, which is partial.
        (Study.accession_number == name) & (Study.accession_number != text("''")),
    ]
    try:
        named.append(Study.id == uuid.UUID(name))
    except ValueError:
        named = named[:2]
    query = select(Study).where(or_(*named)).order_by(Study.first_received_at).limit(MAX_NAMED)
    found = session.scalars(query.with_for_update() if lock else query).all()
    if not found:
        raise UnknownStudy("no study matches: expected a study id, Study Instance UID or accession number")
    if len({study.study_instance_uid for study in found}) > 1:
        raise UnknownStudy(f"{_several(found)}; use one of these ids")
    return min(found, key=lambda study: study.identity_number)


def _several(found: Sequence[Study]) -> str:
    number = f"{MAX_NAMED} or more" if len(found) == MAX_NAMED else str(len(found))
    ids = (f"{study.id} ({study.state}, received {study.first_received_at:%Y-%m-%d %H:%M %Z})" for study in found)
    return f"{number} studies match: {', '.join(ids)}"
