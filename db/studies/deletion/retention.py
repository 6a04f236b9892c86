"""Find the studies that ended before a given time, and delete them or the images of their reports.

The unit is a Study Instance UID with all its identities. One of them that is open, held, on hold, newer or without a
report keeps the others, and so does an object whose storage commitment result is not delivered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Text,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import aliased

from db.models import (
    Commitment,
    DeletedStudy,
    IdentityDecision,
    Inquiry,
    Instance,
    Job,
    ProcedureStep,
    Report,
    ReportImage,
    SpecialistPrediction,
    Study,
    StudyHold,
)
from db.models.base import any_of
from db.models.studies import ENDED_WITHOUT_REPORT
from db.states import StudyState
from db.studies.deletion import file_deletions

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Row, Select
    from sqlalchemy.orm import InstrumentedAttribute, Session

ENDED = (StudyState.REPORTED, *ENDED_WITHOUT_REPORT)


@dataclass(frozen=True, slots=True)
class Limits:
    """Times before which a study must have ended to be deleted; None: it is kept."""

    #: Of all studies that no name concerns.
    others: dt.datetime | None
    #: By calling AE title or modality; an AE title takes precedence.
    by_name: Mapping[str, dt.datetime | None] = field(default_factory=dict)
    #: Whether studies that ended without a report are deleted, too.
    without_report: bool = False

    def before(self, study: type[Study]) -> ColumnElement[dt.datetime]:
        """Return the time of a study; that of one to be kept is before all others."""
        columns = study.calling_ae_title, study.modality
        whens = [(column == name, _time(value)) for column in columns for name, value in self.by_name.items()]
        return case(*whens, else_=_time(self.others)) if whens else _time(self.others)

    @property
    def states(self) -> tuple[StudyState, ...]:
        """States of a study that can be deleted."""
        return ENDED if self.without_report else (StudyState.REPORTED,)


def _time(value: dt.datetime | None) -> ColumnElement[dt.datetime]:
    return literal("-infinity" if value is None else value.isoformat(), Text).cast(DateTime(timezone=True))


def next_page(
    session: Session, limits: Limits, after: str, limit: int, *, images_only: bool
) -> Sequence[Row[str, int]]:
    """Return the next Study Instance UIDs, in their order, of which every study ended before its time.

    With each the number of its stored objects. With *images_only*, those whose reports have images. *after* is the last
    one of the page before.
    """
    other, counted = aliased(Study), aliased(Study)
    newer = exists().where(other.study_instance_uid == Study.study_instance_uid, ~_ended(other, limits))
    objects = select(func.count()).select_from(Instance).join(counted, counted.id == Instance.study_id)
    objects = objects.where(counted.study_instance_uid == Study.study_instance_uid)
    page = select(Study.study_instance_uid, objects.scalar_subquery()).where(
        Study.study_instance_uid > after,
        Study.identity_number == 1,
        Study.last_received_at < limits.before(Study),
        ~newer,
    )
    if images_only:
        page = page.where(exists().where(other.study_instance_uid == Study.study_instance_uid, _has_images(other)))
    return session.execute(page.order_by(Study.study_instance_uid).limit(limit)).all()


def locked(session: Session, uids: Collection[str], limits: Limits) -> Sequence[Study]:
    """Return the studies of some UIDs, locked, without those of a UID of which a study is to be kept or is in use."""
    of_uids = Study.study_instance_uid == any_of(uids)
    studies = select(Study).where(of_uids).order_by(Study.study_instance_uid, Study.identity_number)
    # In use: another process has locked it, and no one waits for the other.
    found = session.scalars(studies.with_for_update(skip_locked=True)).all()
    in_use = Study.id.not_in([study.id for study in found])
    # Statements of their own: they see the commits made before the locks.
    not_ended = select(Study.study_instance_uid).where(of_uids, or_(in_use, ~_ended(Study, limits)))
    kept = {*session.scalars(not_ended), *session.scalars(_committing().where(of_uids))}
    return [study for study in found if study.study_instance_uid not in kept]


def kept(session: Session, limits: Limits) -> dict[str, int]:
    """Return the number of studies that are old enough to be deleted and are kept, by cause."""
    causes = {
        "on hold": _is_on_hold(Study),
        "without a report": and_(Study.state.in_(ENDED_WITHOUT_REPORT), Study.state.not_in(limits.states)),
        "without an end": Study.state.not_in(ENDED),
    }
    old = Study.last_received_at < limits.before(Study)
    counts = (func.count().filter(cause) for cause in causes.values())
    return dict(zip(causes, session.execute(select(*counts).select_from(Study).where(old)).one(), strict=True))


def _is_on_hold(study: type[Study]) -> ColumnElement[bool]:
    return exists().where(StudyHold.study_id == study.id, StudyHold.released_at.is_(None))


def _ended(study: type[Study], limits: Limits) -> ColumnElement[bool]:
    before = limits.before(study)
    jobs = exists().where(Job.study_id == study.id, or_(Job.finished_at.is_(None), Job.finished_at >= before))
    decisions = exists().where(IdentityDecision.study_id == study.id, IdentityDecision.decided_at >= before)
    received = and_(study.state.in_(limits.states), study.last_received_at < before, study.settled_at < before)
    return and_(received, ~jobs, ~decisions, ~_is_on_hold(study))


def _committing() -> Select[str]:
    """Return the query for studies with an object in a request whose result is neither delivered nor given up.

    The requests are read once, not for each object: hundreds of a thousand objects each can be open.
    """
    pair = func.jsonb_array_elements(Commitment.requested, type_=JSONB).column_valued("pair")
    is_open = Commitment.delivered_at.is_(None), Commitment.given_up_at.is_(None)
    requested = select(pair[1].astext).select_from(Commitment).join(pair.scalar_alias, true()).where(*is_open)
    objects = select(Study.study_instance_uid).join(Instance, Instance.study_id == Study.id)
    return objects.where(Instance.sop_instance_uid.in_(requested))


def _has_images(study: type[Study]) -> ColumnElement[bool]:
    return exists().where(Report.study_id == study.id, ReportImage.report_id == Report.id)


def instances(session: Session, studies: Sequence[Study]) -> Sequence[Instance]:
    """Return the instances of locked studies."""
    return session.scalars(select(Instance).where(Instance.study_id.in_([study.id for study in studies]))).all()


def images(session: Session, studies: Sequence[Study]) -> Sequence[Row[str | None, int]]:
    """Return the file, if it is in one, and the bytes of each image of the studies' reports."""
    reports = select(Report.id).where(Report.study_id.in_([study.id for study in studies]))
    size = func.coalesce(ReportImage.file_bytes, func.octet_length(ReportImage.png))
    return session.execute(select(ReportImage.file_path, size).where(ReportImage.report_id.in_(reports))).all()


def _note_images(session: Session, studies: Sequence[Study]) -> None:
    file_deletions.note(session, [path for path, _ in images(session, studies) if path is not None])


def delete_images(session: Session, studies: Sequence[Study]) -> None:
    """Delete the images of the reports of locked studies, and note their files; the reports stay."""
    _note_images(session, studies)
    reports = select(Report.id).where(Report.study_id.in_([study.id for study in studies]))
    session.execute(delete(ReportImage).where(ReportImage.report_id.in_(reports)))


def delete_studies(session: Session, studies: Sequence[Study]) -> None:
    """Delete locked studies with all their rows, and note their files.

    What names a Study Instance UID only stays while another patient has studies under it.
    """
    file_deletions.note(session, [row.file_path for row in instances(session, studies)])
    _note_images(session, studies)
    ids = [study.id for study in studies]
    uids = _without_other_studies(session, studies)
    session.execute(delete(ProcedureStep).where(ProcedureStep.study_instance_uid.in_(uids)))
    # Images and evidence of a report, answer and evidence of an inquiry, jobs and decisions of a study go with it.
    for table in (Report, Inquiry, Instance):
        session.execute(delete(table).where(table.study_id.in_(ids)))
    # Those with its id go with it. The first condition is that of the index.
    alone = [study for study in studies if study.study_instance_uid in uids]
    named = uids | {study.accession_number for study in alone if study.accession_number}
    prediction = SpecialistPrediction
    session.execute(delete(prediction).where(prediction.study_id.is_(None), prediction.study.in_(named)))
    session.execute(delete(Study).where(Study.id.in_(ids)))


def note_deleted(session: Session, studies: Sequence[Study]) -> None:
    """Note whom studies to be deleted concern, for the audit log."""
    first = select(func.min(Instance.received_at)).where(Instance.study_id == Study.id).scalar_subquery()
    columns = Study.id, Study.study_instance_uid, Study.patient_id, Study.issuer_of_patient_id
    rows = select(*columns, func.coalesce(first, Study.first_received_at)).where(
        Study.id.in_([study.id for study in studies])
    )
    names = ["study_id", "study_instance_uid", "patient_id", "issuer_of_patient_id", "received_at"]
    session.execute(insert(DeletedStudy).from_select(names, rows))


def unmatched(session: Session, limits: Limits) -> tuple[list[str], dict[str, str]]:
    """Return the names of *limits* that no study has, and those of them that differ from a study's in case only."""
    known = {name for column in (Study.calling_ae_title, Study.modality) for name in session.scalars(_distinct(column))}
    missing = [name for name in limits.by_name if name not in known]
    by_case = {name.upper(): name for name in known}
    return missing, {name: by_case[name.upper()] for name in missing if name.upper() in by_case}


def _distinct(column: InstrumentedAttribute[str]) -> Select[str]:
    return select(column).distinct()


def _without_other_studies(session: Session, studies: Sequence[Study]) -> set[str]:
    """Return the Study Instance UIDs of the studies under which there is no further one."""
    uids = {study.study_instance_uid for study in studies}
    others = Study.study_instance_uid == any_of(uids), Study.id.not_in([study.id for study in studies])
    return uids - set(session.scalars(select(Study.study_instance_uid).where(*others)))
