"""Erased patients, known by fingerprints: their objects are recognised in the spool, in quarantine and in backups.

A fingerprint is the SHA-256 of a Patient ID, whatever its issuer, of a Patient ID with its issuer, which may be none,
or of a Study Instance UID. The last one counts for objects without a Patient ID only: several patients can be under one
UID. An object that was received after the erasure is a new examination, and stays. Of a study that a wrong clock has
dated later than its erasure, the Patient ID together with the Study Instance UID is a fingerprint, too, with that time.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, Any

from sqlalchemy import exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from db.models import PatientErasure
from db.models.base import any_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from db.studies.lifecycle import StudyAttributes

#: Between Patient ID and issuer, as in HL7's CX. The queries of db.studies.deletion.patients have the same rule.
WITH_ISSUER = "^^^"
#: Between these and a Study Instance UID.
WITH_STUDY = "^^^^"
NOTE_BACKUP = text("""
    UPDATE patient_erasures AS erased SET backed_up_at = clock_timestamp()
    FROM unnest(CAST(:fingerprints AS text[]), CAST(:times AS timestamptz[])) AS noted (fingerprint, erased_at)
    WHERE erased.fingerprint = noted.fingerprint AND erased.erased_at = noted.erased_at
""")


def fingerprint(identifier: str) -> str:
    """Return the SHA-256 of an identifier, as db.reference does; empty for an empty one."""
    return hashlib.sha256(identifier.strip().encode()).hexdigest() if identifier.strip() else ""


def of_patient(patient_id: str, issuer: str | None = None) -> str:
    """Return the fingerprint of a patient: of one issuer, of none if it is empty, of every one if it is None."""
    return fingerprint(_name(patient_id, issuer))


def of_patients_study(patient_id: str, issuer: str | None, study_instance_uid: str) -> str:
    """Return the fingerprint of one study of a patient; the issuer as in `of_patient`."""
    return fingerprint(f"{_name(patient_id, issuer)}{WITH_STUDY}{study_instance_uid.strip()}")


def _name(patient_id: str, issuer: str | None) -> str:
    return patient_id.strip() if issuer is None else f"{patient_id.strip()}{WITH_ISSUER}{issuer.strip()}"


def of_study(study: StudyAttributes) -> set[str]:
    """Return the fingerprints by which an object is recognised."""
    if not study.patient_id.strip():
        return {fingerprint(study.study_instance_uid)}
    patient_id, issuers = study.patient_id, (None, study.issuer_of_patient_id)
    patients = {of_patient(patient_id, issuer) for issuer in issuers}
    return patients | {of_patients_study(patient_id, issuer, study.study_instance_uid) for issuer in issuers}


def record(session: Session, fingerprints: Iterable[str], later: Mapping[str, dt.datetime] | None = None) -> None:
    """Record an erasure that begins now; an earlier one of the same fingerprint is renewed.

    *later* maps fingerprints to the times of objects that are dated later than now; their erasures get these times.
    """
    rows = [{"fingerprint": value} for value in sorted(set(fingerprints))]
    statement = insert(PatientErasure)
    renewed: dict[str, Any] = {"erased_at": func.clock_timestamp(), "completed_at": None, "backed_up_at": None}
    session.execute(statement.on_conflict_do_update(index_elements=["fingerprint"], set_=renewed), rows)
    if later:
        dated = [{"fingerprint": value, "erased_at": when} for value, when in later.items()]
        as_dated = {**renewed, "erased_at": statement.excluded.erased_at}
        session.execute(statement.on_conflict_do_update(index_elements=["fingerprint"], set_=as_dated), dated)


def include(session: Session, erased: Mapping[str, dt.datetime]) -> None:
    """Take over erasures from a folder of backups, to be carried out again; the later time of each holds."""
    if not erased:
        return
    statement = insert(PatientErasure)
    at = func.greatest(statement.excluded.erased_at, PatientErasure.erased_at)
    again = statement.on_conflict_do_update(
        index_elements=["fingerprint"], set_={"erased_at": at, "completed_at": None}
    )
    now = dt.datetime.now(dt.UTC)
    rows = [{"fingerprint": value, "erased_at": when, "backed_up_at": now} for value, when in erased.items()]
    session.execute(again, rows)


def erased_at(session: Session, fingerprints: Collection[str]) -> dict[str, dt.datetime]:
    """Return the times at which those of the fingerprints were erased that were."""
    columns = PatientErasure.fingerprint, PatientErasure.erased_at
    rows = session.execute(select(*columns).where(PatientErasure.fingerprint == any_of(fingerprints)))
    return {value: when for value, when in rows}  # noqa: C416 - rows are no pairs for mypy


def is_covered(
    erased: Mapping[str, dt.datetime],
    fingerprints: Iterable[str],
    received_at: dt.datetime,
    now: dt.datetime | None = None,
) -> bool:
    """Return whether an object with these fingerprints, received at this time, is of an erased patient.

    If *now* is given, an erasure dated later than it covers only objects that are dated later, too: an object with a
    correct time is a new examination.
    """
    times = [erased[value] for value in fingerprints if value in erased]
    return any(received_at <= time and (now is None or time <= now or received_at > now) for time in times)


def unfinished_among(session: Session, fingerprints: Collection[str]) -> frozenset[str]:
    """Return those of the fingerprints whose erasure is not completed."""
    found = PatientErasure.fingerprint == any_of(fingerprints), PatientErasure.completed_at.is_(None)
    return frozenset(session.scalars(select(PatientErasure.fingerprint).where(*found)))


def are_unfinished(session: Session) -> bool:
    """Return whether an erasure was interrupted."""
    return session.scalar(select(exists().where(PatientErasure.completed_at.is_(None)))) or False


def complete(session: Session) -> None:
    """Note that everything is erased."""
    unfinished = PatientErasure.completed_at.is_(None)
    session.execute(update(PatientErasure).where(unfinished).values(completed_at=func.clock_timestamp()))


def every(session: Session) -> dict[str, dt.datetime]:
    """Return all fingerprints with their times."""
    rows: Sequence[PatientErasure] = session.scalars(select(PatientErasure)).all()
    return {row.fingerprint: row.erased_at for row in rows}


def note_backup(session: Session, noted: Mapping[str, dt.datetime]) -> None:
    """Note that a folder of backups has these erasures; not of one that was renewed since it was read."""
    session.execute(NOTE_BACKUP, {"fingerprints": list(noted), "times": list(noted.values())})
