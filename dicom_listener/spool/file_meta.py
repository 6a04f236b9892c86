"""Encode and decode the header of a stored file: preamble, prefix and File Meta Information (PS3.10 7.1).

Rows can be recreated from the file alone: its header has sender, time, association and priority. The last bytes of
the header are the seal, written when the object is complete: size of the file and CRC-32 of all other bytes. A file
with a wrong seal is incomplete.
"""

from __future__ import annotations

import datetime as dt
import json
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from operator import attrgetter
from typing import TYPE_CHECKING

from dicom_listener.dicom.elements import ElementReader
from dicom_listener.spool.durable import open_regular

if TYPE_CHECKING:
    from pathlib import Path

IMPLEMENTATION_CLASS_UID = "2.25.177700872978730742733091213152172090075"
IMPLEMENTATION_VERSION_NAME = f"PRELIM_{version('prelim')}"[:16]
#: Creator of the Private Information (0002,0102); its JSON keys are the fields of Reception below.
PRIVATE_CREATOR_UID = "2.25.252160920937784604581597451954160424391"

#: Zeros, so that no stored object is at the same time an executable (CVE-2019-11687), then the prefix.
PREAMBLE = bytes(128) + b"DICM"
GROUP_LENGTH_BYTES = 12
#: Bytes read to decode a header; the encoded ones have about 700.
MAX_HEADER_BYTES = 4096
#: Size of the file and CRC-32 of all bytes but the seal, in hexadecimal: text, as the JSON before it.
SEAL = struct.Struct("16s8s")
UNSEALED = b"0" * SEAL.size
#: Bytes read at a time.
READ_BYTES = 2**20

#: Encoded values kept, because they are the same for all objects of an association or of a class.
CACHED = 1024

#: The operations whose data sets are stored.
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
    """Sender, time and association of an object. *priority*: 0 medium, 1 high, 2 low (C-STORE, PS3.7 9.3.1.1)."""

    operation: str
    association_id: str
    calling_ae_title: str
    called_ae_title: str
    peer: str
    priority: int
    received_at: dt.datetime


SENDER_FIELDS = ("operation", "association_id", "calling_ae_title", "called_ae_title", "peer", "priority")
SENDER = attrgetter(*SENDER_FIELDS)


@dataclass(frozen=True, slots=True)
class FileMeta:
    """Decoded header of a stored file; the data set begins at byte *length*."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    reception: Reception
    length: int
    seal: bytes


def encode(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, reception: Reception) -> bytes:
    """Return preamble, prefix and File Meta Information in Explicit VR Little Endian, without a valid seal."""
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


def decode(header: bytes) -> FileMeta:
    """Decode a header written by `encode`; later bytes are ignored. Raises ValueError if *header* is not one."""
    group = memoryview(header)[len(PREAMBLE) :]
    begins = header.startswith(PREAMBLE) and bytes(group[:8]) == struct.pack("<HH2sH", 2, 0, b"UL", 4)
    if not begins or len(group) < GROUP_LENGTH_BYTES:
        raise ValueError("not a DICOM file: preamble, prefix or File Meta Information is missing")
    (length,) = struct.unpack_from("<I", group, 8)
    end = GROUP_LENGTH_BYTES + length
    if end > len(group):
        raise ValueError("the File Meta Information is longer than the header")
    reader = ElementReader(_WANTED)
    reader.feed(group[GROUP_LENGTH_BYTES:end])
    values = reader.values
    if values.keys() != _WANTED:
        raise ValueError("the File Meta Information is incomplete")
    return FileMeta(
        _text(values[MEDIA_STORAGE_SOP_CLASS_UID]),
        _text(values[MEDIA_STORAGE_SOP_INSTANCE_UID]),
        _text(values[TRANSFER_SYNTAX_UID]),
        _from_json(values[PRIVATE_INFORMATION][: -SEAL.size]),
        len(PREAMBLE) + end,
        values[PRIVATE_INFORMATION][-SEAL.size :],
    )


def seal(file_bytes: int, crc: int) -> bytes:
    """Return the seal of a complete file; *crc* is that of its header without the seal, then its data set."""
    return SEAL.pack(b"%016x" % file_bytes, b"%08x" % crc)


def is_complete(path: Path) -> bool:
    """Return whether the seal of the file at *path* is valid; reads the complete file. Raises OSError."""
    with open_regular(path) as file:
        header = file.read(MAX_HEADER_BYTES)
        try:
            meta = decode(header)
        except ValueError:
            return False
        crc = zlib.crc32(header[: meta.length - SEAL.size])
        file.seek(meta.length)
        while step := file.read(READ_BYTES):
            crc = zlib.crc32(step, crc)
        return meta.seal == seal(file.tell(), crc)


@lru_cache(CACHED)
def _short(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("latin-1")
    padded = value + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, vr, len(padded)) + padded


def _long(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sHI", 2, element, vr, 0, len(value)) + value


def _text(value: bytes) -> str:
    return value.decode("latin-1").rstrip("\0 ")


def _to_json(reception: Reception) -> bytes:
    text = f'{_sender_to_json(*SENDER(reception))}, "received_at": "{reception.received_at.isoformat()}"}}'
    return (text + " " * (len(text) % 2)).encode()


@lru_cache(CACHED)
def _sender_to_json(*values: str | int) -> str:
    return json.dumps(dict(zip(SENDER_FIELDS, values, strict=True))).removesuffix("}")


def _from_json(value: bytes) -> Reception:
    fields = json.loads(value)
    try:
        return Reception(**{**fields, "received_at": dt.datetime.fromisoformat(fields["received_at"])})
    except (TypeError, KeyError) as error:
        raise ValueError("the Private Information has unexpected fields") from error
