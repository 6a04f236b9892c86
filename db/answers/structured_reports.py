"""Store the predictions that specialist models send as structured reports, and why others are not taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select

from db.answers import predictions
from db.models import Instance, SpecialistReport, Study
from db.studies.identity import identity

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterable

    from sqlalchemy.orm import Session

    from db.answers.predictions import Received
    from db.studies.lifecycle import ReceivedInstance

log = structlog.get_logger()

OTHER_PATIENT = "its evidence is of another study, which is not known to be of the same patient"
#: Fields of an identity that belong to the patient and not to the study.
OF_PATIENT = frozenset(("patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date", "patient_sex"))


@dataclass(frozen=True, slots=True)
class StructuredReport:
    """Labels and drafts of a report about one Study Instance UID, and reasons, without values, for the rest."""

    study: str
    given: tuple[Received, ...]
    reasons: tuple[str, ...]


def record(session: Session, reports: Iterable[tuple[ReceivedInstance, StructuredReport]]) -> None:
    """Store the predictions of objects that were just recorded, about their own study or that of their evidence."""
    for instance, report in reports:
        _record(session, instance, report)


def _record(session: Session, instance: ReceivedInstance, report: StructuredReport) -> None:
    stored = session.execute(
        select(Instance.id, Instance.study_id).where(Instance.sop_instance_uid == instance.sop_instance_uid)
    ).one()
    study_id = _subject(session, instance, report, stored.study_id) if report.given else None
    reasons = [*report.reasons, *([OTHER_PATIENT] if report.given and study_id is None else [])]
    given = report.given if study_id is not None else ()
    source = f"SR {instance.sop_instance_uid} from {instance.calling_ae_title.strip()}"
    predictions.add(session, given, source, study_id)
    drafts = sum(bool(one.draft) for one in given)
    counts = {"predictions": len(given) - drafts, "drafts": drafts}
    session.add(SpecialistReport(instance_id=stored.id, **counts, reasons=reasons))
    note = log.warning if reasons else log.info
    note("structured_report.read", study_id=str(stored.study_id), **counts, not_taken=reasons)


def _subject(
    session: Session, instance: ReceivedInstance, report: StructuredReport, own: uuid.UUID
) -> uuid.UUID | None:
    """Return the study of the predictions; None unless another study of the evidence has the patient of the report."""
    if report.study == instance.study.study_instance_uid:
        return own
    named = session.scalars(select(Study).where(Study.study_instance_uid == report.study)).all()
    if len(named) != 1:
        return None
    known, received = identity.of(named[0]), identity.of(instance.study)
    same_id = bool(known.patient_id.strip() and received.patient_id.strip())
    different = OF_PATIENT.intersection(identity.differences(known, received))
    return named[0].id if same_id and not different else None
