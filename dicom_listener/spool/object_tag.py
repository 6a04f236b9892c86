"""Read the tag of an object's name in an inbox (dicom_listener.spool.waiting) from its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.studies.priority import is_urgent
from db.studies.settling import study_key
from dicom_listener.dicom import data_sets
from dicom_listener.dicom.statuses import Refusal
from dicom_listener.spool import file_meta, waiting
from dicom_listener.spool.durable import open_regular

if TYPE_CHECKING:
    from pathlib import Path

#: Requested Procedure Priority (PS3.3 C.4.11).
REQUESTED_PROCEDURE_PRIORITY = 0x00401003
#: C-STORE priority (PS3.7 9.3.1.1) of urgent objects.
HIGH = 1


def read(path: Path) -> str:
    """Return the tag of a stored file, "" if no object can be read from it.

    A file without one waits for no study, and delays the settling of all.
    """
    try:
        return _read(path)
    except (OSError, ValueError, Refusal):
        return ""


def _read(path: Path) -> str:
    with open_regular(path) as file:
        meta = file_meta.decode(file.read(file_meta.MAX_HEADER_BYTES))
        file.seek(meta.length)
        wanted = data_sets.IDENTITY.keys() | {REQUESTED_PROCEDURE_PRIORITY}
        reader = data_sets.reader(meta.transfer_syntax_uid, wanted)
        while step := file.read(file_meta.READ_BYTES):
            reader.feed(step)
    data_sets.check_identity(reader, meta.sop_class_uid, meta.sop_instance_uid)
    uid = data_sets.parse_uid(reader.values[data_sets.STUDY_INSTANCE_UID], "Study Instance UID")
    requested = reader.values.get(REQUESTED_PROCEDURE_PRIORITY, b"").strip().upper().decode("latin-1")
    return waiting.tag(study_key(uid), urgent=meta.reception.priority == HIGH or is_urgent(requested))
