"""Name the objects of a study that are stored and not read: reports, plans, presentation states."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sqlalchemy import exists, func, select, true

from db.models import Instance, SpecialistReport
from db.states import JobKind

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.orm import Session

#: A code string (PS3.5 6.2). Any other value may be typed text.
_CODE = re.compile(r"[A-Z0-9]{1,16}")


def not_images(session: Session, study_id: uuid.UUID, kind: str = JobKind.REPORT) -> list[str]:
    """Return one sentence about the objects that are no images: `Not read: 2 PR objects, 1 SR object (not images).`.

    Empty if the study has none. A structured report is read if all that it holds was taken and is for this kind of job:
    labels for a diagnosis, drafts for a report.
    """
    report = SpecialistReport
    used, unused = report.predictions, report.drafts
    if kind == JobKind.REPORT:
        used, unused = unused, used
    whole = exists().where(report.instance_id == Instance.id, used > 0, unused == 0, report.reasons == [])
    unread = true() if kind == JobKind.QUESTION else ~whole
    counted = session.execute(
        select(Instance.modality, func.count())
        .where(Instance.study_id == study_id, ~Instance.reportable, unread)
        .group_by(Instance.modality)
        .order_by(Instance.modality)
    )
    named = [
        f"{count} {modality if _CODE.fullmatch(modality) else 'other'} object{'s' * (count > 1)}"
        for modality, count in counted
    ]
    return [f"Not read: {', '.join(named)} (not images)."] if named else []
