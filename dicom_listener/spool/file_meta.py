"""The head of a stored file: preamble, prefix and File Meta Information (PS3.10 7.1), written and read back.

It says all that is needed to make the object's rows again from the file alone: who sent it, when, in which
association and how urgently. Its last bytes are the seal, written when the object is complete: size and CRC-32 of all
the rest. A file with a broken seal is half a file, however it came about.
"""

from __future__ import annotations

import datetime as dt
import json
import struct
import zlib
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from dicom_listener.dicom.elements import ElementReader

if TYPE_CHECKING:
    from pathlib import Path

IMPLEMENTATION_CLASS_UID = "2.25.177700872978730742733091213152172090075"
IMPLEMENTATION_VERSION_NAME = f"PRELIM_{version('prelim')}"[:16]
#: Names our own use of Private Information (0002,0102); its JSON keys are the fields of Reception below.
PRIVATE_CREATOR_UID = "2.25.252160920937784604581597451954160424391"

#: Zeroed, so that no stored object is at the same time a program (CVE-2019-11687), then the prefix.
PREAMBLE = bytes(128) + b"DICM"
GROUP_LENGTH_BYTES = 12
#: Bytes to read for the whole head; ours has some 700.
LONGEST_HEAD = 4096
#: Size of the file and CRC-32 of everything but the seal, in hexadecimal: JSON may be followed by them unharmed.
SEAL = struct.Struct("16s8s")
UNSEALED = b"0" * SEAL.size
#: Bytes read at a time.
STEP = 2**20

#: The operations whose data sets are kept.
C_STORE, N_ACTION, N_CREATE, N_SET = "C-STORE", "N-ACTION", "N-CREATE", "N-SET"

MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
MEDIA_STORAGE_SOP_INSTANCE_UID = 0x00020003
TRANSFER_SYNTAX_UID = 0x00020010
PRIVATE_INFORMATION = 0x00020102
_WANTED = frozenset(
    (MEDIA_STORAGE_SOP_CLASS_UID, MEDIA_STORAGE_SOP_INSTANCE_UID, TRANSFER_SYNTAX_UID, PRIVATE_INFORMATION)
)


@dataclass(frozen=True, slots=True)
class Reception:
    """How an object came to us. *priority* is that of the C-STORE: 0 medium, 1 high, 2 low (PS3.7 9.3.1.1)."""

    operation: str
    association_id: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    priority: int
    received_at: dt.datetime


@dataclass(frozen=True, slots=True)
class FileMeta:
    """What the head of one of our files says; the data set begins at byte *length*."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    reception: Reception
    length: int
    seal: bytes


def encode(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, reception: Reception) -> bytes:
    """Preamble, prefix and File Meta Information, in Explicit VR Little Endian, not yet sealed."""
    group = b"".join(
        (
            _long(0x0001, b"OB", b"\x00\x01"),
            _short(0x0002, b"UI", sop_class_uid),
            _short(0x0003, b"UI", sop_instance_uid),
            _short(0x0010, b"UI", transfer_syntax_uid),
            _short(0x0012, b"UI", IMPLEMENTATION_CLASS_UID),
            _short(0x0013, b"SH", IMPLEMENTATION_VERSION_NAME),
            _short(0x0016, b"AE", reception.calling_ae_title),
            _short(0x0017, b"AE", reception.calling_ae_title),
            _short(0x0018, b"AE", reception.called_ae_title),
            _short(0x0100, b"UI", PRIVATE_CREATOR_UID),
            _long(0x0102, b"OB", _to_json(reception) + UNSEALED),
        )
    )
    return PREAMBLE + struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(group)) + group


def decode(head: bytes) -> FileMeta:
    """Read back what `encode` wrote; raises ValueError where *head* is not the beginning of one of our files."""
    group = memoryview(head)[len(PREAMBLE) :]
    begins = head.startswith(PREAMBLE) and bytes(group[:8]) == struct.pack("<HH2sH", 2, 0, b"UL", 4)
    if not begins or len(group) < GROUP_LENGTH_BYTES:
        raise ValueError("the file does not begin with a preamble, prefix and File Meta Information")
    (length,) = struct.unpack_from("<I", group, 8)
    end = GROUP_LENGTH_BYTES + length
    if end > len(group):
        raise ValueError("the File Meta Information is longer than any of ours")
    reader = ElementReader(_WANTED)
    reader.feed(group[GROUP_LENGTH_BYTES:end])
    values = reader.values
    if values.keys() != _WANTED:
        raise ValueError("the File Meta Information is not complete")
    return FileMeta(
        _text(values[MEDIA_STORAGE_SOP_CLASS_UID]),
        _text(values[MEDIA_STORAGE_SOP_INSTANCE_UID]),
        _text(values[TRANSFER_SYNTAX_UID]),
        _from_json(values[PRIVATE_INFORMATION][: -SEAL.size]),
        len(PREAMBLE) + end,
        values[PRIVATE_INFORMATION][-SEAL.size :],
    )


def checksum(content: bytes | memoryview, so_far: int = 0) -> int:
    """CRC-32, continued from *so_far*."""
    return zlib.crc32(content, so_far)


def seal(file_bytes: int, crc: int) -> bytes:
    """The seal of a complete file; *crc* is the checksum of its head without the seal, then its data set."""
    return SEAL.pack(b"%016x" % file_bytes, b"%08x" % crc)


def is_whole(path: Path) -> bool:
    """Whether the file at *path* is complete, as its seal says; reads all of it."""
    with path.open("rb") as file:
        head = file.read(LONGEST_HEAD)
        try:
            meta = decode(head)
        except ValueError:
            return False
        crc = checksum(head[: meta.length - SEAL.size])
        file.seek(meta.length)
        while step := file.read(STEP):
            crc = checksum(step, crc)
        return meta.seal == seal(file.tell(), crc)


def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("latin-1")
    padded = value + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(padded)) + padded


def _long(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sHI", 2, element, vr, 0, len(value)) + value


def _text(value: bytes) -> str:
    return value.decode("latin-1").rstrip("\0 ")


def _to_json(reception: Reception) -> bytes:
    fields = {name: getattr(reception, name) for name in Reception.__dataclass_fields__}
    text = json.dumps({**fields, "received_at": reception.received_at.isoformat()})
    return (text + " " * (len(text) % 2)).encode()


def _from_json(value: bytes) -> Reception:
    fields = json.loads(value)
    try:
        return Reception(**{**fields, "received_at": dt.datetime.fromisoformat(fields["received_at"])})
    except (TypeError, KeyError) as error:
        raise ValueError("the Private Information is not ours") from error
