"""Modality Performed Procedure Steps: record them, and settle the studies whose steps have ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import exists, false, func, select
from sqlalchemy.dialects.postgresql import insert

from db.models import Instance, ProcedureStep, Study
from db.models.base import any_of
from db.models.procedure_steps import DISCONTINUED, IN_PROGRESS
from db.states import StudyState
from db.studies.settling import BATCH, has_waiting_files, settle

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Sequence

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session


def begin(session: Session, sop_instance_uid: str, study_instance_uid: str, state: str) -> None:
    """Record a procedure step that a modality has begun (N-CREATE); repeating it changes nothing.

    An update that was indexed before gets its study.
    """
    values = {"sop_instance_uid": sop_instance_uid, "study_instance_uid": study_instance_uid, "state": state}
    row = insert(ProcedureStep).values(**values, images=[])
    its_study = {"study_instance_uid": row.excluded.study_instance_uid, "updated_at": func.clock_timestamp()}
    session.execute(
        row.on_conflict_do_update(
            index_elements=["sop_instance_uid"], set_=its_study, where=ProcedureStep.study_instance_uid == ""
        )
    )


def update(session: Session, sop_instance_uid: str, state: str | None, images: Sequence[str]) -> None:
    """Update a step (N-SET); an empty *state* or *images* keeps the recorded one.

    In any order of arrival: of a step that has ended only missing images are added, and a step that is not yet known is
    recorded without its study. The listener refuses updates of steps that were never created.
    """
    unknown = {"sop_instance_uid": sop_instance_uid, "study_instance_uid": "", "state": IN_PROGRESS, "images": []}
    session.execute(insert(ProcedureStep).values(**unknown).on_conflict_do_nothing())
    step = session.get_one(ProcedureStep, sop_instance_uid, with_for_update=True)
    if step.state == IN_PROGRESS:
        step.state = state or step.state
        step.images = list(images) or step.images
        step.updated_at = func.clock_timestamp()
    elif not step.images:
        step.images = list(images)


def abandon(session: Session, sop_instance_uid: str) -> None:
    """End a step whose modality never will; without effect on its study, which settles by its quiet time."""
    step = session.get_one(ProcedureStep, sop_instance_uid, with_for_update=True)
    if step.state == IN_PROGRESS:
        step.state = DISCONTINUED


def settle_ended(
    session: Session, sending: Collection[str], waiting: Collection[str] = (), *, unlisted: bool = False
) -> list[uuid.UUID]:
    """Settle the studies whose steps have all ended and whose images have arrived; return the ids of the new jobs.

    The images of a step that lists none have arrived when no association sends the study, by *sending*, the Study
    Instance UIDs being sent, its transfer did not break off, and no inbox is *unlisted*. *waiting* as in
    settling.settle_due. At most BATCH studies, urgent ones first: after an outage, all would not settle within the
    limit of a transaction.
    """
    jobs = []
    for study, discontinued in session.execute(_ended(sending, waiting, unlisted=unlisted)).all():
        study.broken_off_at = study.broken_association_id = None
        state = "discontinued" if discontinued else "completed"
        jobs.append(settle(session, study, f"the modality {state} the procedure"))
    return [job for job in jobs if job is not None]


def _ended(sending: Collection[str], waiting: Collection[str], *, unlisted: bool) -> Select[Study, bool]:
    """Return the query of the next studies that have ended, each with whether a step was discontinued."""
    is_of_study = ProcedureStep.study_instance_uid == Study.study_instance_uid
    # A step that ended before this revision began does not cover its images.
    covers = ProcedureStep.updated_at >= Study.revision_started_at
    ended = exists().where(is_of_study, ProcedureStep.state != IN_PROGRESS, covers)
    running = exists().where(is_of_study, ProcedureStep.state == IN_PROGRESS)
    lists_images = exists().where(is_of_study, func.cardinality(ProcedureStep.images) > 0)
    is_sent = Study.study_instance_uid == any_of(sending)
    is_whole = false() if unlisted else Study.broken_off_at.is_(None) & ~is_sent
    return (
        select(Study, exists().where(is_of_study, ProcedureStep.state == DISCONTINUED).label("discontinued"))
        .where(Study.state == StudyState.RECEIVING, ended, ~running, ~has_waiting_files(waiting))
        .where(~_misses_images(is_of_study), lists_images | is_whole)
        .order_by(Study.priority.desc(), Study.last_received_at)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )


def _misses_images(is_of_study: ColumnElement[bool]) -> ColumnElement[bool]:
    """Condition of a study without one of the images that its steps list."""
    image = func.unnest(ProcedureStep.images).column_valued("image", joins_implicitly=True)
    arrived = exists().where(Instance.sop_instance_uid == image, Instance.study_id == Study.id)
    missing = select(image).select_from(ProcedureStep).where(is_of_study, ~arrived.correlate_except(Instance))
    return missing.correlate(Study).exists()
