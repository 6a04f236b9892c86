"""Seals of drafts: a reader gets the text of a report only after having looked at the study."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Literal

from sqlalchemy import exists, or_, select

from db.models import AuditRow, ReportFeedback, Study
from db.states import FeedbackKind

if TYPE_CHECKING:
    import uuid

    from sqlalchemy.orm import Session

#: Moment from which a draft is shown: the setting `drafts`.
Rule = Literal["shown", "after_images", "after_impression"]
#: Age of the audit rows that show that a reader was sent images.
RECENT = dt.timedelta(days=1)
#: End of a route that sends an image.
_IMAGES = ("%/frames/{frame}", "%/report/images/{ordinal}", "%/report/pictures/{ordinal}")
_ERROR = 400


def is_sealed(session: Session, study_id: uuid.UUID, version: int, reader: str, rule: Rule) -> bool:
    """Return whether *reader* may not yet have the text of the current *version*.

    An impression opens all versions: the first one has then been read.
    """
    if rule == "shown":
        return False
    by_reader = ReportFeedback.study_id == study_id, ReportFeedback.author == reader
    opening = ReportFeedback.kind == FeedbackKind.IMPRESSION
    if rule == "after_images":
        # Opened by `open_draft`; acts on a version are possible only then.
        opening = (ReportFeedback.kind != FeedbackKind.IMPRESSION) & (ReportFeedback.version == version)
    return not session.scalar(select(exists().where(*by_reader, opening)))


def open_draft(session: Session, study: Study, version: int, reader: str) -> ReportFeedback | None:
    """Store that *reader* has seen images and opens a version; None if no image was sent to the reader.

    Images sent before the current revision of the study, or more than a day ago, do not count.
    """
    since = max(study.revision_started_at, dt.datetime.now(dt.UTC) - RECENT)
    sent = exists().where(
        AuditRow.at >= since,
        AuditRow.principal == reader,
        AuditRow.studies.contains([study.id]),
        AuditRow.status < _ERROR,
        or_(*(AuditRow.route.like(route) for route in _IMAGES)),
    )
    if not session.scalar(select(sent)):
        return None
    row = ReportFeedback(study_id=study.id, version=version, kind=FeedbackKind.OPENED, text="", author=reader)
    session.add(row)
    session.flush()
    return row
