"""Verify storage commitment requests: each object's file is read back (PS3.4 J.3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_listener.indexing import headers

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from db.models import Instance
    from db.settings import Settings

#: Failure Reasons (0008,1197), PS3.3 C.14.1.1.
PROCESSING_FAILURE, NO_SUCH_OBJECT_INSTANCE, CLASS_INSTANCE_CONFLICT = 0x0110, 0x0112, 0x0119


def failures(
    settings: Settings,
    requested: Collection[tuple[str, str]],
    known: Mapping[str, Instance],
    conflicting: Collection[str],
) -> list[tuple[str, str, int]]:
    """Compare size and digest of each object's file with its row; return the failed ones with their Failure Reasons.

    *requested* has pairs of SOP class UID and SOP instance UID, *known* the rows by SOP Instance UID. For the
    *conflicting* instances, the requester sent an object that differs from the stored one.
    """
    found = []
    for sop_class, instance in requested:
        row = known.get(instance)
        reason = PROCESSING_FAILURE if instance in conflicting else _failure(settings, row, sop_class)
        if reason is not None:
            found.append((sop_class, instance, reason))
    return found


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
