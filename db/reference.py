"""Reference cases that reports quote, and the index snapshots built from them."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import String, and_, cast, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from db.errors import ConfigurationError
from db.models import PatientErasure, ReferenceCase, ReferenceErasure, ReferenceSnapshot
from db.models.base import given

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from typing import Any

    from sqlalchemy import Select
    from sqlalchemy.orm import Session


class Erasure(NamedTuple):
    """Times at which cases with a fingerprint were erased, and readmitted."""

    erased_at: dt.datetime
    readmitted_at: dt.datetime | None

    @property
    def changed_at(self) -> dt.datetime:
        """Time of the later of both."""
        return max(self.erased_at, self.readmitted_at or self.erased_at)


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


def owners(session: Session) -> set[str]:
    """Return the fingerprints of the patients and studies of all cases."""
    rows = session.execute(select(ReferenceCase.patient_hash, ReferenceCase.study_hash))
    return {value for row in rows for value in row if value}


def reports(session: Session) -> Iterable[str]:
    """Return the reports of all cases."""
    return session.scalars(select(ReferenceCase.report))


def find_cases(session: Session, names: Collection[str], *, patient_hash: str) -> list[uuid.UUID]:
    """Return the cases with *names*, each an id or the name in its collection, and those of a patient.

    Raises ConfigurationError if a name belongs to no case, or to cases of several collections.
    """
    of_patient = select(ReferenceCase.id).where(ReferenceCase.patient_hash == patient_hash)
    found = set(session.scalars(of_patient)) if patient_hash else set[uuid.UUID]()
    for name in names:
        is_it = (ReferenceCase.source_case == name) | (cast(ReferenceCase.id, String) == name)
        ids = session.scalars(select(ReferenceCase.id).where(is_it)).all()
        if len(ids) != 1:
            problem = "unknown" if not ids else "in several collections: give its id"
            raise ConfigurationError(f"reference case {name} is {problem}; `prelim index info` shows the index")
        found.add(ids[0])
    return sorted(found)


def erase_cases(session: Session, case_ids: Sequence[uuid.UUID], *, extra: Iterable[str] = ()) -> None:
    """Delete cases, and keep their fingerprints and *extra* ones: of the patient, of images.

    Reports that quote them lose the quoted words by a trigger on report_evidence.
    """
    prints = {value for case in cases(session, case_ids).values() for value in fingerprints_of(case)}
    erase_owner(session, {value for value in prints | set(extra) if value})
    session.execute(delete(ReferenceCase).where(ReferenceCase.id.in_(case_ids)))


def fingerprints_of(case: ReferenceCase) -> set[str]:
    """Return what an erased case is known by: its study, and its name in its collection."""
    return {case.study_hash, fingerprint(f"{case.source}/{case.source_case}")} - {""}


def of_erased(session: Session) -> list[uuid.UUID]:
    """Return the cases of erased patients and studies, and erased cases: those that a restored backup had.

    Readmitted cases are not among them.
    """
    name = func.encode(
        func.sha256(func.convert_to(ReferenceCase.source + "/" + ReferenceCase.source_case, "UTF8")), "hex"
    )
    erased_cases, erased_studies = _erased(), select(PatientErasure.fingerprint)
    is_erased = or_(
        ReferenceCase.patient_hash.in_(erased_cases),
        name.in_(erased_cases),
        # Several patients can be under one Study Instance UID.
        and_(ReferenceCase.patient_hash == "", ReferenceCase.study_hash.in_(erased_studies)),
    )
    return list(session.scalars(select(ReferenceCase.id).where(is_erased).order_by(ReferenceCase.id)))


def erase_owner(session: Session, fingerprints: Collection[str]) -> None:
    """Record that the cases of a patient or study are erased: no import adds one."""
    rows = [{"fingerprint": value} for value in sorted(fingerprints)]
    if rows:
        again = {"erased_at": func.clock_timestamp(), "readmitted_at": None}
        statement = insert(ReferenceErasure).on_conflict_do_update(index_elements=["fingerprint"], set_=again)
        session.execute(statement, rows)


def every_erasure(session: Session) -> dict[str, Erasure]:
    """Return all fingerprints of cases that were erased, those that were readmitted later included."""
    return {
        row.fingerprint: Erasure(row.erased_at, row.readmitted_at) for row in session.scalars(select(ReferenceErasure))
    }


def replace_erasures(session: Session, erasures: Mapping[str, Erasure]) -> None:
    """Give these fingerprints the times of a folder of backups; others keep theirs."""
    rows = [{"fingerprint": value, **erasure._asdict()} for value, erasure in erasures.items()]
    if rows:
        statement = insert(ReferenceErasure)
        times = {name: statement.excluded[name] for name in Erasure._fields}
        session.execute(statement.on_conflict_do_update(index_elements=["fingerprint"], set_=times), rows)


def _erased() -> Select[str]:
    return select(ReferenceErasure.fingerprint).where(ReferenceErasure.readmitted_at.is_(None))


def erased(session: Session, fingerprints: Collection[str]) -> set[str]:
    """Return those of *fingerprints* that were erased, and not readmitted."""
    return set(session.scalars(_erased().where(ReferenceErasure.fingerprint.in_(fingerprints))))


def readmit(session: Session, fingerprints: Collection[str]) -> None:
    """Let imports add cases with *fingerprints* again."""
    known = ReferenceErasure.fingerprint.in_(fingerprints) & ReferenceErasure.readmitted_at.is_(None)
    session.execute(update(ReferenceErasure).where(known).values(readmitted_at=func.clock_timestamp()))


def erasures(session: Session) -> int:
    """Return the number of fingerprints of erased cases."""
    return session.scalar(select(func.count()).select_from(_erased().subquery())) or 0


def add_snapshot(
    session: Session, *, directory: str, model_digest: str, cases: int, figures: dict[str, Any] | None = None
) -> None:
    """Make a snapshot the current one of its model."""
    row = ReferenceSnapshot(directory=directory, model_digest=model_digest, cases=cases, figures=figures or {})
    session.add(row)


def newest_snapshots(session: Session, model_digest: str) -> Sequence[ReferenceSnapshot]:
    """Return the snapshots of this model, the newest first."""
    return session.scalars(
        select(ReferenceSnapshot)
        .where(ReferenceSnapshot.model_digest == model_digest)
        .order_by(ReferenceSnapshot.created_at.desc(), ReferenceSnapshot.directory.desc())
    ).all()


def current_snapshot(session: Session, model_digest: str) -> ReferenceSnapshot | None:
    """Return the newest snapshot of this model."""
    return next(iter(newest_snapshots(session, model_digest)), None)


def current_snapshots(session: Session) -> list[ReferenceSnapshot]:
    """Return the newest snapshot of each model."""
    digests = session.scalars(select(ReferenceSnapshot.model_digest).distinct()).all()
    return [newest_snapshots(session, digest)[0] for digest in sorted(digests)]


def forget_snapshots(session: Session, model_digest: str, *, keep: int) -> list[str]:
    """Delete the rows of all but the *keep* newest snapshots of a model; return their directories."""
    session.flush()
    old = newest_snapshots(session, model_digest)[keep:]
    session.execute(delete(ReferenceSnapshot).where(ReferenceSnapshot.id.in_([row.id for row in old])))
    return [row.directory for row in old]
