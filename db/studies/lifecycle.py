"""The life of a study: each transition is one function and one conditional UPDATE.

    receiving -> settled -> reported | not_reportable | failed | cancelled
        ^__________________________________| late images: revision + 1

While a study is `settled`, its job (db.jobs.claims) says whether it waits or runs.
"""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from db.errors import Reason, UnknownStudy
from db.models import Instance, Job, Quarantined, Report, Study
from db.states import OPEN_JOBS, JobState, StudyState

if TYPE_CHECKING:
    import datetime as dt

    from sqlalchemy.orm import Session

#: Delays from here on are shown in minutes; in seconds.
SHOWN_IN_MINUTES = 120


@dataclass(frozen=True, slots=True)
class StudyAttributes:
    """What the headers of an object say of its study; the first object's words are kept."""

    study_instance_uid: str
    patient_id: str = ""
    patient_name: str = field(default="", repr=False)
    patient_birth_date: str = field(default="", repr=False)
    patient_sex: str = ""
    accession_number: str = field(default="", repr=False)
    study_date: str = ""
    study_description: str = field(default="", repr=False)
    #: Greater is more urgent; 0 is routine.
    priority: int = 0
    #: Number of Study Related Instances (0020,1208), where the sender says it.
    announced: int | None = None


@dataclass(frozen=True, slots=True)
class ReceivedInstance:
    """A durable file, as the indexer read it."""

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


class EndedJob(Protocol):
    """What names a study's revision: a job, or the claim on one."""

    @property
    def study_id(self) -> uuid.UUID: ...  # noqa: D102
    @property
    def revision(self) -> int: ...  # noqa: D102


class Recorded(enum.Enum):
    """What became of a received file."""

    NEW = "new"
    #: This very file has its row already: a crash came between commit and clean-up.
    ALREADY_INDEXED = "already indexed"
    #: Another file holds the same object; this one may go.
    DUPLICATE = "duplicate"
    #: Another file holds a different object under the same SOP Instance UID; the first is kept.
    CONFLICT = "conflict"


def record_instance(session: Session, received: ReceivedInstance) -> Recorded:
    """Give a durable file its row, exactly once, and open a new revision where it comes late."""
    known = _known(session, received)
    if known is not None:
        return known
    study = _locked_study(session, received)
    if received.reportable and study.state != StudyState.RECEIVING:
        _reopen(session, study)
    if not _insert(session, received, study):
        # Another indexer was faster between our look and our insert.
        return _known(session, received) or Recorded.CONFLICT
    study.last_received_at = func.clock_timestamp()
    if received.reportable:
        study.modality = study.modality or received.modality
        study.body_part = study.body_part or received.body_part
    study.priority = max(study.priority, received.study.priority)
    study.announced = max(study.announced or 0, received.study.announced or 0) or None
    return Recorded.NEW


def _known(session: Session, received: ReceivedInstance) -> Recorded | None:
    row = session.execute(
        select(Instance.file_path, Instance.sha256).where(Instance.sop_instance_uid == received.sop_instance_uid)
    ).one_or_none()
    if row is None:
        return None
    if row.file_path == received.file_path:
        return Recorded.ALREADY_INDEXED
    return Recorded.DUPLICATE if row.sha256 == received.sha256 else Recorded.CONFLICT


def _locked_study(session: Session, received: ReceivedInstance) -> Study:
    attributes = {name: getattr(received.study, name) for name in StudyAttributes.__dataclass_fields__}
    session.execute(
        insert(Study)
        .values(**attributes, calling_ae_title=received.calling_ae_title)
        .on_conflict_do_nothing(index_elements=["study_instance_uid"])
    )
    # The lock makes late images, settling and finishing of one study take turns.
    return session.scalars(
        select(Study)
        .where(Study.study_instance_uid == received.study.study_instance_uid)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one()


def _insert(session: Session, received: ReceivedInstance, study: Study) -> bool:
    columns = {name: getattr(received, name) for name in ReceivedInstance.__dataclass_fields__ if name != "study"}
    inserted = session.execute(
        insert(Instance)
        .values(**columns, study_id=study.id, revision=study.revision)
        .on_conflict_do_nothing()
        .returning(Instance.id)
    )
    return inserted.one_or_none() is not None


def _reopen(session: Session, study: Study) -> None:
    """Images came after the study was judged complete: a new revision; a report in the making is superseded."""
    session.execute(
        update(Job)
        .where(Job.study_id == study.id, Job.state.in_(OPEN_JOBS))
        .values(
            state=JobState.SUPERSEDED,
            reason=Reason.LATE_IMAGES,
            detail="images of the study arrived after it was judged complete",
            lease_until=None,
            finished_at=func.clock_timestamp(),
        )
    )
    study.state = StudyState.RECEIVING
    study.revision += 1
    study.revision_started_at = func.clock_timestamp()
    study.settled_at = study.settle_reason = study.reason = study.detail = None


def quarantine(
    session: Session,
    *,
    file_path: str,
    file_bytes: int,
    sha256: str,
    reason: Reason,
    detail: str,
    received_at: dt.datetime,
    sop_instance_uid: str | None = None,
    calling_ae_title: str = "",
) -> None:
    """Give an acknowledged file that is no instance of a study its row; doing it twice is one row."""
    session.execute(
        insert(Quarantined)
        .values(
            file_path=file_path,
            file_bytes=file_bytes,
            sha256=sha256,
            reason=reason,
            detail=detail,
            received_at=received_at,
            sop_instance_uid=sop_instance_uid,
            calling_ae_title=calling_ae_title,
        )
        .on_conflict_do_nothing(index_elements=["file_path"])
    )


def late_arrivals(session: Session, study_id: uuid.UUID, revision: int) -> list[str]:
    """What a revision has that the last report had not: "32 images of series 4 arrived 14 min later".

    A revision whose report was superseded or failed was seen by nobody, so it is no measure of what is new; before the
    first report nothing is.
    """
    if revision == 1:
        return []
    seen = session.scalar(
        select(func.max(Report.revision)).where(Report.study_id == study_id, Report.revision < revision)
    )
    return [] if seen is None else _since(session, study_id, seen, revision)


def _since(session: Session, study_id: uuid.UUID, seen: int, revision: int) -> list[str]:
    earlier = session.scalar(
        select(func.max(Instance.received_at)).where(Instance.study_id == study_id, Instance.revision <= seen)
    )
    late = session.execute(
        select(Instance.series_number, func.count(), func.min(Instance.received_at))
        .where(
            Instance.study_id == study_id,
            Instance.revision > seen,
            Instance.revision <= revision,
            Instance.reportable,
        )
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
    """Take the study's turn: who changes a study and its job locks the study first, or the two could deadlock."""
    session.execute(select(Study.id).where(Study.id == study_id).with_for_update())


def end(session: Session, owner: EndedJob, state: StudyState, *, reason: Reason, detail: str) -> None:
    """Bring a settled study to its end; nothing happens where a newer revision has begun."""
    session.execute(
        update(Study)
        .where(Study.id == owner.study_id, Study.revision == owner.revision, Study.state == StudyState.SETTLED)
        .values(state=state, reason=reason, detail=detail)
    )


def find(session: Session, name: str, *, lock: bool = False) -> Study:
    """The study an operator names by its id, Study Instance UID or accession number.

    Raises UnknownStudy where none or several match.
    """
    named = [Study.study_instance_uid == name, Study.accession_number == name]
    try:
        named.append(Study.id == uuid.UUID(name))
    except ValueError:
        named = named[:2]
    query = select(Study).where(or_(*named)).limit(2)
    found = session.scalars(query.with_for_update() if lock else query).all()
    if len(found) != 1:
        raise UnknownStudy(f"{'no study' if not found else 'more than one study'} goes by that name")
    return found[0]
