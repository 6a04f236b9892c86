"""Store and read feedback of readers on reports: what they accepted, edited or rejected, and their own words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exists, select

from db.errors import NotPossible
from db.models import ReportFeedback
from db.reports import holds
from db.states import FeedbackKind, StudyState

if TYPE_CHECKING:
    import uuid
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

    from db.models import Study

#: Acts that make a draft part of the reader's own report: impossible while the study is held.
ACCEPTING = (FeedbackKind.ACCEPTED, FeedbackKind.EDITED, FeedbackKind.FINAL)


def add(session: Session, study: Study, feedback: ReportFeedback) -> ReportFeedback:
    """Store an act of a reader; raises NotPossible if it accepts a draft of a held study.

    An impression is the reader's own only before the draft was opened: NotPossible is raised afterwards.
    """
    held = study.state == StudyState.HELD or holds.current(session, study.id) is not None
    if held and feedback.kind in ACCEPTING:
        raise NotPossible("the study is held: its draft cannot be accepted")
    if feedback.kind == FeedbackKind.IMPRESSION and _has_seen(session, study.id, feedback):
        raise NotPossible("this reader has opened the draft: an impression is stored before")
    feedback.study_id = study.id
    session.add(feedback)
    session.flush()
    return feedback


def of_study(session: Session, study_id: uuid.UUID) -> Sequence[ReportFeedback]:
    """Return the feedback on all versions of a study's report, the oldest first."""
    query = select(ReportFeedback).where(ReportFeedback.study_id == study_id)
    return session.scalars(query.order_by(ReportFeedback.version, ReportFeedback.id)).all()


def _has_seen(session: Session, study_id: uuid.UUID, feedback: ReportFeedback) -> bool:
    seen = exists().where(
        ReportFeedback.study_id == study_id,
        ReportFeedback.author == feedback.author,
        ReportFeedback.version == feedback.version,
        ReportFeedback.kind != FeedbackKind.IMPRESSION,
    )
    return bool(session.scalar(select(seen)))
