"""Reference cases that reports quote, and the index snapshots built from them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from db.models import ReferenceCase, ReferenceSnapshot
from db.models.base import given

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable

    from sqlalchemy.orm import Session


def fingerprint(identifier: str) -> str:
    """SHA-256 of the identifier of a patient or study, for comparison only; empty for an empty identifier."""
    return hashlib.sha256(identifier.strip().encode()).hexdigest() if identifier.strip() else ""


def add_case(session: Session, case: ReferenceCase) -> uuid.UUID:
    """Insert the case, or update the one with its source and name; return its id."""
    values = given(case)
    row = insert(ReferenceCase).values(values)
    key = ["source", "source_case"]
    updated = {name: row.excluded[name] for name in values if name not in key}
    return session.scalars(
        row.on_conflict_do_update(index_elements=key, set_=updated).returning(ReferenceCase.id)
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
