"""Queries on the files in quarantine, for API, page and command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from db.errors import Reason
from db.models import Instance, Quarantined
from db.studies.visibility import visible_files

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Collection

    from sqlalchemy.orm import Session

#: Reasons for which a file is in quarantine.
REASONS = (Reason.CONFLICTING_SOP_INSTANCE, Reason.UNREADABLE, Reason.FILE_ERROR, Reason.REPLACED)


@dataclass(frozen=True, slots=True)
class QuarantinedFile:
    """A file in quarantine; *study_id* is that of the stored object with its SOP Instance UID."""

    id: uuid.UUID
    reason: str
    detail: str
    received_at: dt.datetime
    calling_ae_title: str
    sop_instance_uid: str | None
    file_bytes: int
    study_id: uuid.UUID | None


def files(
    session: Session,
    *,
    limit: int,
    study_id: uuid.UUID | None = None,
    ae_titles: Collection[str] | None = None,
) -> list[QuarantinedFile]:
    """Return the files in quarantine, the latest first; with *study_id* those with UIDs of its objects.

    Only those sent by *ae_titles*; None: all.
    """
    query = (
        select(
            Quarantined.id,
            Quarantined.reason,
            Quarantined.detail,
            Quarantined.received_at,
            Quarantined.calling_ae_title,
            Quarantined.sop_instance_uid,
            Quarantined.file_bytes,
            Instance.study_id,
        )
        .outerjoin(Instance, Instance.sop_instance_uid == Quarantined.sop_instance_uid)
        .where(*visible_files(ae_titles))
        .order_by(Quarantined.received_at.desc(), Quarantined.id)
        .limit(limit)
    )
    if study_id is not None:
        query = query.where(Instance.study_id == study_id)
    return [QuarantinedFile(*row) for row in session.execute(query)]


def counts(session: Session, ae_titles: Collection[str] | None = None) -> dict[str, int]:
    """Count the files in quarantine, sent by *ae_titles*, by reason, including reasons with none."""
    query = select(Quarantined.reason, func.count()).where(*visible_files(ae_titles))
    found = session.execute(query.group_by(Quarantined.reason))
    return dict.fromkeys(map(str, REASONS), 0) | dict(found.all())


def conflicting(session: Session, study_id: uuid.UUID) -> int:
    """Count the objects of a study of which another version is in quarantine."""
    query = (
        select(func.count(Quarantined.sop_instance_uid.distinct()))
        .join(Instance, Instance.sop_instance_uid == Quarantined.sop_instance_uid)
        .where(Instance.study_id == study_id, Quarantined.reason == Reason.CONFLICTING_SOP_INSTANCE)
    )
    return session.scalar(query) or 0
