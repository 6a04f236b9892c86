"""Verify storage commitment requests: each object's file is read back (PS3.4 J.3.3).

Of an object that was moved to the object storage, its digest there is compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.storage import object_files
from db.storage.errors import Unavailable
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
    """Compare the digest of each object's file with its row; return the failed ones with their Failure Reasons.

    *requested* has pairs of SOP class UID and SOP instance UID, *known* the rows by SOP Instance UID. For the
    *conflicting* instances, the requester sent an object that differs from the stored one. Raises Unavailable if the
    object storage cannot be asked, or does not have an object yet that it must have.
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
    path = settings.operations.data_dir / row.file_path
    if settings.storage.storage_url is not None and settings.storage.storage_commit_after == "store":
        return _failure_in_storage(settings, row)
    try:
        digest = headers.digest(path)
    except FileNotFoundError:
        return PROCESSING_FAILURE if row.object_sha256 is None else _failure_in_storage(settings, row)
    except OSError:
        return PROCESSING_FAILURE
    # Sent again, the file may have another header, and size, than the row for a moment.
    return None if digest.sha256 == row.sha256 else PROCESSING_FAILURE


def _failure_in_storage(settings: Settings, row: Instance) -> int | None:
    """Return the reason for a failed object of the object storage; raises Unavailable if it is not there yet."""
    bucket = object_files.required(object_files.bucket(settings))
    if row.object_sha256 is None:
        raise Unavailable("the object is not moved yet")
    found = bucket.head(object_files.key(row.file_path))
    return None if object_files.is_whole(settings, row, found, row.file_bytes) else PROCESSING_FAILURE
