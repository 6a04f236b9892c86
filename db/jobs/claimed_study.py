"""Read the study of a claimed job, with its reportable instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    from db.jobs.claims import Claim

#: A study and its reportable instances in one round trip; the flags say which rarer rows exist and must be read, too.
STUDY = text("""
    SELECT patient_id, patient_sex, study_instance_uid, studies.modality, studies.body_part, indication,
        file_path, object_sha256, storage_due_at, sop_instance_uid, called_ae_title,
        broken_off_at IS NOT NULL AS broken_off, requested_procedure,
        EXISTS (SELECT FROM identity_decisions WHERE study_id = studies.id) AS decided,
        EXISTS (SELECT FROM studies AS other
            WHERE other.study_instance_uid = studies.study_instance_uid AND other.id <> studies.id) AS shared,
        EXISTS (SELECT FROM instances AS other
            WHERE other.study_id = studies.id AND NOT other.reportable) AS other_objects,
        EXISTS (SELECT FROM specialist_predictions AS sent WHERE draft <> '' AND (sent.study_id = studies.id
            OR sent.study_id IS NULL AND sent.study IN (study_instance_uid, accession_number))) AS drafted
    FROM studies LEFT JOIN instances
        ON instances.study_id = studies.id AND instances.reportable AND instances.revision <= :revision
    WHERE studies.id = :study_id
    ORDER BY sop_instance_uid
""")


def rows(session: Session, claim: Claim) -> Sequence[Row[Any]]:
    """Return a row for each instance of the claimed revision; one without a file if it has none."""
    return session.execute(STUDY, {"study_id": claim.study_id, "revision": claim.revision}).all()
