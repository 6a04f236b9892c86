"""Reference cases that reports quote, and the index snapshots built from them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from db.models import ReferenceCase, ReferenceSnapshot

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable, Sequence

    from sqlalchemy.orm import Session


def fingerprint(identifier: str) -> str:
    """SHA-256 of the identifier of a patient or study, for comparison only; empty for an empty identifier."""
    return hashlib.sha256(identifier.strip().encode()).hexdigest() if identifier.strip() else ""


def add_case(
    session: Session,
    *,
    source: str,
    source_case: str,
    modality: str,
    body_part: str,
    patient_hash: str,
    study_hash: str,
    report: str,
    labels: Sequence[str],
) -> uuid.UUID:
    """Insert or update the case with this source and name; return its id."""
    row = insert(ReferenceCase).values(
        source=source,
        source_case=source_case,
        modality=modality,
        body_part=body_part,
        patient_hash=patient_hash,
        study_hash=study_hash,
        report=report,
        labels=list(labels),
    )
    names = ("modality", "body_part", "patient_hash", "study_hash", "report", "labels")
    return session.scalars(
        row.on_conflict_do_update(
            index_elements=["source", "source_case"], set_={name: row.excluded[name] for name in names}
        ).returning(ReferenceCase.id)
    ).one()


def cases(session: Session, case_ids: Iterable[uuid.UUID]) -> dict[uuid.UUID, ReferenceCase]:
    """Return the cases that exist, by id."""
    rows = session.scalars(select(ReferenceCase).where(ReferenceCase.id.in_(list(case_ids))))
    return {row.id: row for row in rows}


def add_snapshot(session: Session, *, directory: str, model_digest: str, cases: int) -> None:
    """Make a snapshot the current one of its model."""
    session.add(ReferenceSnapshot(directory=directory, model_digest=model_digest, cases=cases))


def current_snapshot(session: Session, model_digest: str) -> ReferenceSnapshot | None:
    """Return the newest snapshot of this model."""
    return session.scalars(
        select(ReferenceSnapshot)
        .where(ReferenceSnapshot.model_digest == model_digest)
        .order_by(ReferenceSnapshot.created_at.desc())
        .limit(1)
    ).one_or_none()
