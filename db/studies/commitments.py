"""What modalities say beside sending images: storage commitment requests and performed procedure steps."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from sqlalchemy import ARRAY, Text, any_, cast, exists, func, select, update
from sqlalchemy.dialects.postgresql import insert

from db.errors import Reason
from db.models import Commitment, Instance, ProcedureStep, Quarantined, Study
from db.states import StudyState
from db.studies.settling import settle

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

#: Pause after the first failed delivery of a commitment report, in seconds; doubled for each further one.
FIRST_PAUSE_SECONDS = 10
#: A modality may be switched off over a holiday; an hour later is soon enough then.
LONGEST_PAUSE_SECONDS = 3600


def record_commitment(session: Session, commitment: Commitment) -> None:
    """Keep a request; a second time is once."""
    columns = ("id", "transaction_uid", "calling_ae_title", "called_ae_title", "association_id", "requested")
    values = {name: getattr(commitment, name) for name in (*columns, "received_at")}
    session.execute(insert(Commitment).values(**values, attempts=0).on_conflict_do_nothing())


def take_due_commitment(
    session: Session, *, besides: Collection[str] = (), waiting: Collection[uuid.UUID] = ()
) -> Commitment | None:
    """The next request whose report is due; it is due again later, whatever happens to who takes it now.

    None of the AE titles *besides*, and none that is *waiting* for its association.
    """
    commitment = session.scalars(
        select(Commitment)
        .where(Commitment.delivered_at.is_(None), Commitment.due_at <= func.clock_timestamp())
        .where(Commitment.calling_ae_title.not_in(list(besides)), Commitment.id.not_in(list(waiting)))
        .order_by(Commitment.due_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if commitment is not None:
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(commitment.attempts, 20), LONGEST_PAUSE_SECONDS)
        commitment.attempts += 1
        commitment.due_at = func.clock_timestamp() + dt.timedelta(seconds=pause)
    return commitment


def commitment_delivered(session: Session, commitment_id: uuid.UUID) -> None:
    """The requester has taken the report."""
    _update(session, commitment_id, delivered_at=func.clock_timestamp(), detail=None)


def commitment_failed(session: Session, commitment_id: uuid.UUID, detail: str) -> None:
    """The report could not be delivered, for now."""
    _update(session, commitment_id, detail=detail)


def _update(session: Session, commitment_id: uuid.UUID, **values: object) -> None:
    session.execute(update(Commitment).where(Commitment.id == commitment_id).values(**values))


def instances(session: Session, sop_instance_uids: Collection[str]) -> dict[str, Instance]:
    """The rows of these objects, as far as there are any."""
    rows = session.scalars(select(Instance).where(Instance.sop_instance_uid == _any_of(sop_instance_uids)))
    return {row.sop_instance_uid: row for row in rows}


def conflicting(session: Session, calling_ae_title: str, sop_instance_uids: Collection[str]) -> set[str]:
    """Of which of these *calling_ae_title* has sent another object than the one that is kept."""
    return set(
        session.scalars(
            select(Quarantined.sop_instance_uid).where(
                Quarantined.sop_instance_uid == _any_of(sop_instance_uids),
                Quarantined.reason == Reason.CONFLICTING_SOP_INSTANCE,
                Quarantined.calling_ae_title == calling_ae_title,
            )
        )
    )


def _any_of(texts: Collection[str]) -> ColumnElement[bool]:
    """One parameter, however many there are: a statement has at most 65,535."""
    return any_(cast(list(texts), ARRAY(Text)))


def begin_step(session: Session, sop_instance_uid: str, study_instance_uid: str, state: str) -> None:
    """A modality began a procedure step; a second time is once."""
    values = {"sop_instance_uid": sop_instance_uid, "study_instance_uid": study_instance_uid, "state": state}
    session.execute(insert(ProcedureStep).values(**values, images=[]).on_conflict_do_nothing())


def update_step(session: Session, sop_instance_uid: str, state: str | None, images: Sequence[str]) -> None:
    """A modality says more of a step that has not ended."""
    step = session.get(ProcedureStep, sop_instance_uid, with_for_update=True)
    if step is not None and step.state == "IN PROGRESS":
        step.state = state or step.state
        step.images = list(images) or step.images
        step.updated_at = func.clock_timestamp()


def settle_ended_steps(session: Session, open_associations: Collection[str]) -> list[uuid.UUID]:
    """Settle studies whose modality has ended every step, once their images are here; returns the ids of the jobs made.

    A step that does not list its images counts when no open association carries the study.
    """
    ended = exists().where(
        ProcedureStep.study_instance_uid == Study.study_instance_uid,
        ProcedureStep.state != "IN PROGRESS",
        # An older end says nothing of images that came later.
        ProcedureStep.updated_at >= Study.revision_started_at,
    )
    running = exists().where(
        ProcedureStep.study_instance_uid == Study.study_instance_uid, ProcedureStep.state == "IN PROGRESS"
    )
    candidates = session.scalars(
        select(Study).where(Study.state == StudyState.RECEIVING, ended, ~running).with_for_update(skip_locked=True)
    ).all()
    jobs = [_settle_if_all_here(session, study, open_associations) for study in candidates]
    return [job for job in jobs if job is not None]


def _settle_if_all_here(session: Session, study: Study, open_associations: Collection[str]) -> uuid.UUID | None:
    steps = session.scalars(
        select(ProcedureStep).where(ProcedureStep.study_instance_uid == study.study_instance_uid)
    ).all()
    here = session.execute(
        select(Instance.sop_instance_uid, Instance.association_id).where(Instance.study_id == study.id)
    ).all()
    listed = {uid for step in steps for uid in step.images}
    if listed - {row.sop_instance_uid for row in here}:
        return None
    if not listed and any(row.association_id in open_associations for row in here):
        return None
    state = "discontinued" if any(step.state == "DISCONTINUED" for step in steps) else "completed"
    return settle(session, study, f"the modality {state} the procedure")
