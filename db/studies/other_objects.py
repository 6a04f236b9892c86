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

    Empty if the study has none. For a diagnosis, which receives them, predictions of a structured report are read.
    """
    whole = exists().where(
        SpecialistReport.instance_id == Instance.id, SpecialistReport.predictions > 0, SpecialistReport.reasons == []
    )
    unread = ~whole if kind == JobKind.DIAGNOSIS else true()
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
