"""Store and suspend the scaling of the confidence of answers, and find the one that holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import Text, cast, select, update

from db.answers.scaling import Scaling, ScalingOfTask
from db.models import AnswerScaling as Row
from db.reports.certificates import Bindings, changed_bindings
from db.states import INQUIRIES, Calibration, JobKind

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.orm import Session


def add(session: Session, bindings: Bindings, task: JobKind, scaling: ScalingOfTask) -> None:
    """Store the scaling of a task; from now on it is the one of its bindings."""
    kinds = {kind: asdict(one) for kind, one in scaling.kinds.items()}
    session.add(Row(task=task, kinds=kinds, case_set=dict(scaling.case_set), **asdict(bindings)))


def suspend(session: Session, task: JobKind, because: str) -> int:
    """Suspend all scalings of a task; return how many were valid. A new one ends the suspension for its bindings."""
    valid = update(Row).where(Row.task == task, Row.suspended_because.is_(None)).values(suspended_because=because)
    return len(session.scalars(valid.returning(Row.id)).all())


def suspension(session: Session, ids: Collection[str]) -> str | None:
    """Return why one of the scalings with these ids was suspended; None if none was."""
    # As text: the table is small, and an id in the provenance of an answer need not be a UUID.
    named = select(Row.suspended_because).where(cast(Row.id, Text).in_(ids), Row.suspended_because.is_not(None))
    return session.scalar(named.limit(1)) if ids else None


def standing(session: Session, bindings: Bindings) -> dict[JobKind, ScalingOfTask]:
    """Return the scaling of each task with *bindings*; of one without it the reason."""
    return {JobKind(task): _of_task(session, bindings, task) for task in INQUIRIES}


def _of_task(session: Session, bindings: Bindings, task: str) -> ScalingOfTask:
    rows = session.scalars(select(Row).where(Row.task == task).order_by(Row.created_at.desc())).all()
    for row in rows:
        if _bindings(row) == bindings:
            return _read(row)
    if not rows:
        return ScalingOfTask()
    changed = changed_bindings(_bindings(rows[0]), bindings)
    day = f"{rows[0].created_at:%Y-%m-%d}"
    return ScalingOfTask(reason=f"the calibration of {day} holds for {changed}; run `prelim calibrate --task` again")


def _read(row: Row) -> ScalingOfTask:
    if row.suspended_because is not None:
        return ScalingOfTask(reason=row.suspended_because, otherwise=Calibration.SUSPENDED)
    kinds = {kind: Scaling(**values) for kind, values in row.kinds.items()}
    return ScalingOfTask(kinds, row.case_set, id=str(row.id))


def _bindings(row: Row) -> Bindings:
    return Bindings(row.model_digest, row.prompt_version, row.snapshot, row.labeller)
