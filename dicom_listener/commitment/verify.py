"""What a storage commitment report says: each object's file is read back (PS3.4 J.3.3)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from dicom_listener.commitment.outbox import Report
from dicom_listener.dicom.elements import ITEM, SHORT_VRS
from dicom_listener.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_listener.indexing import headers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from db.models import Commitment, Instance
    from db.settings import Settings

    #: From tag, VR and value to the encoded element.
    Encoder = Callable[[int, bytes, bytes], bytes]

#: Event types (PS3.4 J.3.3.1).
ALL_COMMITTED, FAILURES_EXIST = 1, 2
#: Failure Reasons (0008,1197), PS3.3 C.14.1.1.
PROCESSING_FAILURE, NO_SUCH_OBJECT_INSTANCE, CLASS_INSTANCE_CONFLICT = 0x0110, 0x0112, 0x0119

REFERENCED_SOP_CLASS_UID = 0x00081150
REFERENCED_SOP_INSTANCE_UID = 0x00081155
TRANSACTION_UID = 0x00081195
FAILURE_REASON = 0x00081197
FAILED_SOP_SEQUENCE = 0x00081198
REFERENCED_SOP_SEQUENCE = 0x00081199


def verify(
    settings: Settings, commitment: Commitment, known: Mapping[str, Instance], conflicting: Collection[str]
) -> dict[str, int]:
    """Look at each object's file, size and digest; returns the failure reasons by SOP Instance UID.

    Of *conflicting* ones the requester has sent another object than the one that is kept.
    """
    found = {
        instance: PROCESSING_FAILURE if instance in conflicting else _failure(settings, known.get(instance), sop_class)
        for sop_class, instance in commitment.requested
    }
    return {instance: reason for instance, reason in found.items() if reason is not None}


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


def report(commitment: Commitment, failures: Mapping[str, int]) -> Report:
    """The N-EVENT-REPORT for a request of which *failures* failed."""
    encoders = {EXPLICIT_VR_LITTLE_ENDIAN: _explicit, IMPLICIT_VR_LITTLE_ENDIAN: _implicit}
    encoded = {syntax: _encode(commitment, failures, encoder) for syntax, encoder in encoders.items()}
    return Report(FAILURES_EXIST if failures else ALL_COMMITTED, encoded)


def _encode(commitment: Commitment, failures: Mapping[str, int], element: Encoder) -> bytes:
    """The data set, its tags in ascending order."""
    committed, failed = [], []
    for sop_class, instance in commitment.requested:
        pair = [
            element(REFERENCED_SOP_CLASS_UID, b"UI", _uid(sop_class)),
            element(REFERENCED_SOP_INSTANCE_UID, b"UI", _uid(instance)),
        ]
        if instance in failures:
            failed.append([*pair, element(FAILURE_REASON, b"US", struct.pack("<H", failures[instance]))])
        else:
            committed.append(pair)
    encoded = element(TRANSACTION_UID, b"UI", _uid(commitment.transaction_uid))
    if failed:
        encoded += element(FAILED_SOP_SEQUENCE, b"SQ", _items(failed))
    if committed:
        encoded += element(REFERENCED_SOP_SEQUENCE, b"SQ", _items(committed))
    return encoded


def _items(references: Iterable[list[bytes]]) -> bytes:
    return b"".join(_implicit(ITEM, b"", b"".join(reference)) for reference in references)


def _uid(text: str) -> bytes:
    encoded = text.encode("latin-1", "replace")
    return encoded + b"\0" * (len(encoded) % 2)


def _implicit(tag: int, _vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def _explicit(tag: int, vr: bytes, value: bytes) -> bytes:
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    if vr in SHORT_VRS:
        return head + struct.pack("<H", len(value)) + value
    return head + struct.pack("<HI", 0, len(value)) + value
