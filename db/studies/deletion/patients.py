"""Find the rows of a patient, and delete them from every table."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Text, and_, cast, delete, func, or_, select, text

from db.models import (
    Commitment,
    DeletedStudy,
    IdempotentRequest,
    IdentityDecision,
    Inquiry,
    Instance,
    Report,
    ReportFeedback,
    Study,
)
from db.models.base import any_of
from db.states import StudyState
from db.studies.deletion import retention
from db.studies.deletion.erasures import WITH_ISSUER, WITH_STUDY
from db.studies.identity import conflicts, decisions
from db.studies.identity.decisions import Decision

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Sequence

    from sqlalchemy.orm import Session

#: Studies compared by one statement.
PAGE = 20_000
#: Recorded as the author of a decision that two patients are two, made because one of them is erased.
BY = "erasure of the other patient"
#: Studies of a page that an unfinished erasure covers; the conditions are those of erasures.of_study, and the Patient
#: IDs that a person has found to be of the same patient.
COVERED = text(f"""
    WITH page AS MATERIALIZED (SELECT * FROM studies WHERE id > :after ORDER BY id LIMIT :limit),
    named AS (
        SELECT id, btrim(patient_id) AS patient, btrim(issuer_of_patient_id) AS issuer FROM page
        UNION ALL
        SELECT study_id, btrim(former ->> 'patient_id'), btrim(coalesce(former ->> 'issuer_of_patient_id', ''))
        FROM identity_decisions WHERE study_id IN (SELECT id FROM page) AND former ? 'patient_id'
    ),
    prints AS (
        SELECT id, encode(sha256(convert_to(patient, 'UTF8')), 'hex') AS fingerprint FROM named WHERE patient <> ''
        UNION ALL
        SELECT id, encode(sha256(convert_to(patient || '{WITH_ISSUER}' || issuer, 'UTF8')), 'hex')
        FROM named WHERE patient <> ''
        UNION ALL
        SELECT id, encode(sha256(convert_to(name || '{WITH_STUDY}' || btrim(study_instance_uid), 'UTF8')), 'hex')
        FROM named JOIN page USING (id), unnest(ARRAY[patient, patient || '{WITH_ISSUER}' || issuer]) AS name
        WHERE patient <> ''
        UNION ALL
        SELECT id, encode(sha256(convert_to(btrim(study_instance_uid), 'UTF8')), 'hex')
        FROM page WHERE btrim(patient_id) = ''
    )
    SELECT (SELECT max(id::text) FROM page) AS last, array(
        SELECT page.id FROM page JOIN prints USING (id) JOIN patient_erasures AS erased USING (fingerprint)
        WHERE erased.completed_at IS NULL AND erased.erased_at >= coalesce(
            (SELECT min(received_at) FROM instances WHERE study_id = page.id), page.first_received_at)
    ) AS found
""")  # noqa: S608 - a constant of this program


#: The same for deleted studies, which keep the names that they had when they were deleted.
FORGET_DELETED = text(f"""
    DELETE FROM deleted_studies AS gone USING patient_erasures AS erased
    WHERE erased.completed_at IS NULL AND erased.erased_at >= gone.received_at AND erased.fingerprint = ANY(
        SELECT encode(sha256(convert_to(name, 'UTF8')), 'hex') FROM unnest(
            CASE WHEN btrim(patient_id) = '' THEN ARRAY[btrim(study_instance_uid)]
            ELSE ARRAY[btrim(patient_id), btrim(patient_id) || '{WITH_ISSUER}' || btrim(issuer_of_patient_id),
                btrim(patient_id) || '{WITH_STUDY}' || btrim(study_instance_uid), btrim(patient_id) || '{WITH_ISSUER}'
                || btrim(issuer_of_patient_id) || '{WITH_STUDY}' || btrim(study_instance_uid)] END
        ) AS name
    )
    RETURNING gone.study_id
""")  # noqa: S608 - a constant of this program


@dataclass(frozen=True, slots=True)
class Found:
    """Studies of a patient, and how much belongs to them."""

    studies: list[uuid.UUID]
    study_instance_uids: set[str]
    #: Issuers of the Patient ID, an empty one included.
    issuers: set[str]
    objects: int
    size: int
    reports: int
    inquiries: int
    feedback: int
    #: Deleted studies that the audit log names.
    deleted: int


class Erased(NamedTuple):
    """Number of studies and objects whose rows were deleted."""

    studies: int
    objects: int


def find(session: Session, patient_id: str, issuer: str | None = None) -> Found:
    """Return the studies of a patient, those under a Patient ID that a person has corrected included.

    Of every issuer if *issuer* is None; an empty one is no issuer.
    """
    names = _names(patient_id, issuer)
    former = [func.coalesce(IdentityDecision.former[name].astext, "") == value for name, value in names.items()]
    current = [getattr(Study, name) == value for name, value in names.items()]
    columns = Study.id, Study.study_instance_uid, Study.issuer_of_patient_id
    of_former = Study.id.in_(select(IdentityDecision.study_id).where(*former))
    rows = session.execute(select(*columns).where(or_(and_(*current), of_former))).all()
    ids = [row.id for row in rows]
    objects, size = session.execute(
        select(func.count(), func.coalesce(func.sum(Instance.file_bytes), 0)).where(Instance.study_id.in_(ids))
    ).one()
    counts = [
        session.scalar(select(func.count()).select_from(table).where(table.study_id.in_(ids))) or 0
        for table in (Report, Inquiry, ReportFeedback)
    ]
    uids, issuers = ({getattr(row, name) for row in rows} for name in ("study_instance_uid", "issuer_of_patient_id"))
    of_deleted = select(DeletedStudy.issuer_of_patient_id).where(
        *(getattr(DeletedStudy, name) == value for name, value in names.items())
    )
    deleted = session.scalars(of_deleted).all()
    counts.append(len(deleted))
    return Found(ids, uids, issuers | set(deleted), objects, int(size), *counts)


def dated_later(session: Session, patient_id: str, issuer: str | None, found: Found) -> dict[str, dt.datetime]:
    """Return the time of each Study Instance UID of the patient that is after now: a clock was wrong.

    Of studies that were found, and of deleted ones.
    """
    received_at = func.coalesce(Instance.received_at, Study.first_received_at)
    objects = select(Study.study_instance_uid, received_at.label("received_at")).outerjoin(
        Instance, Instance.study_id == Study.id
    )
    deleted = select(DeletedStudy.study_instance_uid, DeletedStudy.received_at).where(
        *(getattr(DeletedStudy, name) == value for name, value in _names(patient_id, issuer).items())
    )
    either = objects.where(Study.id.in_(found.studies)).union_all(deleted).subquery()
    latest = func.max(either.c.received_at)
    rows = session.execute(
        select(either.c.study_instance_uid, latest)
        .group_by(either.c.study_instance_uid)
        .having(latest > func.clock_timestamp())
    )
    return {uid: when for uid, when in rows}  # noqa: C416 - rows are no pairs for mypy


def _names(patient_id: str, issuer: str | None) -> dict[str, str]:
    return {"patient_id": patient_id} | ({} if issuer is None else {"issuer_of_patient_id": issuer})


def covered(session: Session, after: uuid.UUID) -> tuple[uuid.UUID | None, list[uuid.UUID]]:
    """Return the last study of the next page, None at the end, and those of it that unfinished erasures cover."""
    last, found = session.execute(COVERED, {"after": after, "limit": PAGE}).one()
    return (None if last is None else uuid.UUID(last)), sorted(set(found))


def erase(session: Session, study_ids: Collection[uuid.UUID]) -> Erased:
    """Delete studies with all their rows, in any state, and note their files.

    Another patient under the same Study Instance UID stays, and is no longer held because of this one.
    """
    uids = session.scalars(select(Study.study_instance_uid).where(Study.id.in_(study_ids)).distinct()).all()
    gone: list[Study] = []
    for uid in sorted(uids):
        every = conflicts.locked(session, uid)
        theirs = [study for study in every if study.id in study_ids]
        if len(theirs) < len(every):
            _separate(session, every)
        gone += theirs
    objects = retention.instances(session, gone)
    _forget_names(session, gone, [row.sop_instance_uid for row in objects])
    retention.delete_studies(session, gone)
    for uid in uids:
        _renumber(session, uid)
    return Erased(len(gone), len(objects))


def forget_deleted(session: Session) -> int:
    """Delete the names of deleted studies that unfinished erasures cover; return their number."""
    return len(session.execute(FORGET_DELETED).all())


def _separate(session: Session, every: Sequence[Study]) -> None:
    if any(study.state == StudyState.HELD for study in every[1:]):
        decisions.decide(session, every[0], Decision.KEEP_APART, BY)


def _renumber(session: Session, uid: str) -> None:
    """Give the first of the remaining studies of a Study Instance UID the number 1, by which others find it."""
    rest = conflicts.locked(session, uid)
    if rest and rest[0].identity_number != 1:
        rest[0].identity_number = 1
        session.flush()


def _forget_names(session: Session, studies: Sequence[Study], sop_instance_uids: Sequence[str]) -> None:
    """Remove objects from the requests for storage commitment, and stored responses of the API that name a study."""
    _forget_commitments(session, set(sop_instance_uids))
    names = {str(study.id) for study in studies} | {study.study_instance_uid for study in studies}
    patterns = [f"%{name}%" for name in sorted(names)]
    session.execute(delete(IdempotentRequest).where(cast(IdempotentRequest.answer, Text).like(any_of(patterns))))


def _forget_commitments(session: Session, uids: set[str]) -> None:
    """Remove objects from the requests for storage commitment; a request without any left is deleted."""
    named = text("EXISTS (SELECT FROM jsonb_array_elements(requested) AS pair WHERE pair ->> 1 = ANY(:uids))")
    rows = session.scalars(select(Commitment).where(named).with_for_update(), {"uids": list(uids)}).all()
    for row in rows:
        row.requested = [pair for pair in row.requested if pair[1] not in uids]
        row.failed = None if row.failed is None else [one for one in row.failed if one[1] not in uids]
        if not row.requested:
            session.delete(row)
    session.flush()
