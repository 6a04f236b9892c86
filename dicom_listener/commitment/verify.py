"""Verify storage commitment requests: each object's file is read back (PS3.4 J.3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_listener.dicom.commitment_result import CommitmentResult
from dicom_listener.indexing import headers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from db.models import Commitment, Instance
    from db.settings import Settings

#: Failure Reasons (0008,1197), PS3.3 C.14.1.1.
PROCESSING_FAILURE, NO_SUCH_OBJECT_INSTANCE, CLASS_INSTANCE_CONFLICT = 0x0110, 0x0112, 0x0119


def verify(
    settings: Settings, commitment: Commitment, known: Mapping[str, Instance], conflicting: Collection[str]
) -> CommitmentResult:
    """Compare size and digest of each object's file with its row.

    *known* holds the rows by SOP Instance UID. For the *conflicting* instances, the requester sent an object that
    differs from the stored one.
    """
    result = CommitmentResult(commitment.transaction_uid, committed=[], failed=[])
    for sop_class, instance in commitment.requested:
        row = known.get(instance)
        reason = PROCESSING_FAILURE if instance in conflicting else _failure(settings, row, sop_class)
        if reason is None:
            result.committed.append((sop_class, instance))
        else:
            result.failed.append((sop_class, instance, reason))
    return result


def _failure(settings: Settings, row: Instance | None, sop_class_uid: str) -> int | None:
    if row is None:
        return NO_SUCH_OBJECT_INSTANCE
    if row.sop_class_uid != sop_class_uid:
        return CLASS_INSTANCE_CONFLICT
    try:
        digest = headers.digest(settings.operations.data_dir / row.file_path)
    except OSError:
        return PROCESSING_FAILURE
    return None if digest == headers.Digest(row.file_bytes, row.sha256) else PROCESSING_FAILURE
