"""Encode and decode DIMSE command sets, always in Implicit VR Little Endian (PS3.7 6.3.1 and E)."""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from dicom_listener.dicom.uids import STORAGE_COMMITMENT_INSTANCE, STORAGE_COMMITMENT_PUSH_MODEL
from dicom_listener.receive.pdus import COMMAND, INVALID_PARAMETER, LAST, PDV_HEADER, Abort

if TYPE_CHECKING:
    from collections.abc import Iterator

AFFECTED_SOP_CLASS_UID = 0x0002
REQUESTED_SOP_CLASS_UID = 0x0003
COMMAND_FIELD = 0x0100
MESSAGE_ID = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO = 0x0120
PRIORITY = 0x0700
COMMAND_DATA_SET_TYPE = 0x0800
STATUS = 0x0900
ERROR_COMMENT = 0x0902
AFFECTED_SOP_INSTANCE_UID = 0x1000
REQUESTED_SOP_INSTANCE_UID = 0x1001
EVENT_TYPE_ID = 0x1002
ACTION_TYPE_ID = 0x1008

C_STORE_RQ, C_ECHO_RQ, C_CANCEL_RQ = 0x0001, 0x0030, 0x0FFF
N_EVENT_REPORT_RQ, N_SET_RQ, N_ACTION_RQ, N_CREATE_RQ = 0x0100, 0x0120, 0x0130, 0x0140
RESPONSE = 0x8000
N_EVENT_REPORT_RSP = N_EVENT_REPORT_RQ | RESPONSE
NO_DATA_SET = 0x0101
WITH_DATA_SET = 0x0001

#: Bytes of a command set; the longest real one, a C-STORE-RQ, has about 300.
MAX_COMMAND_BYTES = 16384
#: Characters of an Error Comment, VR LO.
MAX_COMMENT_CHARACTERS = 64

_ELEMENT = struct.Struct("<HHI")
_SHORT = struct.Struct("<H")
_US_ELEMENT = struct.Struct("<HHIH")


class Command:
    """A received command set."""

    def __init__(self, encoded: bytes | bytearray) -> None:
        """Decode a command set; raises Abort if *encoded* is malformed, or lacks a field that every command has."""
        self._values = dict(_elements(encoded))
        #: Command Field (0000,0100).
        self.field = self.number(COMMAND_FIELD)
        #: True if a data set follows.
        self.has_data_set = self.number(COMMAND_DATA_SET_TYPE) != NO_DATA_SET

    def number(self, element: int, default: int | None = None) -> int:
        """Return a US value; raises Abort if it is missing or malformed and there is no *default*."""
        value = self._values.get(element, b"")
        if len(value) == _SHORT.size:
            return int(_SHORT.unpack(value)[0])
        if default is None:
            raise Abort(f"command set without (0000,{element:04X})", INVALID_PARAMETER)
        return default

    def text(self, element: int) -> str:
        """Return a UI, AE or LO value without padding; empty if it is missing."""
        return self._values.get(element, b"").decode("latin-1").rstrip("\0 ")


def _elements(encoded: bytes | bytearray) -> Iterator[tuple[int, bytes]]:
    offset, end = 0, len(encoded)
    while offset < end:
        if offset + _ELEMENT.size > end:
            raise Abort("truncated command set", INVALID_PARAMETER)
        group, element, length = _ELEMENT.unpack_from(encoded, offset)
        offset += _ELEMENT.size
        if group != 0 or length > end - offset:
            raise Abort("malformed command set", INVALID_PARAMETER)
        yield element, bytes(encoded[offset : offset + length])
        offset += length


def encode(values: dict[int, int | str]) -> bytes:
    """Return a command set with its group length; numbers become US, texts UI or LO."""
    body = b"".join([_encode_element(element, values[element]) for element in sorted(values)])
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


@lru_cache(1024)  # most are the same in all responses of an association
def _encode_element(element: int, value: int | str) -> bytes:
    if isinstance(value, int):
        return _US_ELEMENT.pack(0, element, _SHORT.size, value)
    encoded = value.encode("latin-1")
    encoded += (b" " if element == ERROR_COMMENT else b"\0") * (len(encoded) % 2)
    return _ELEMENT.pack(0, element, len(encoded)) + encoded


def response(request: Command, status: int, comment: str = "", sop_instance_uid: str = "") -> bytes:
    """Return the response to *request*, without a data set; *sop_instance_uid* if the request has none."""
    requested = request.text(REQUESTED_SOP_INSTANCE_UID) or request.text(AFFECTED_SOP_INSTANCE_UID)
    values: dict[int, int | str] = {
        AFFECTED_SOP_CLASS_UID: request.text(REQUESTED_SOP_CLASS_UID) or request.text(AFFECTED_SOP_CLASS_UID),
        COMMAND_FIELD: request.field | RESPONSE,
        MESSAGE_ID_BEING_RESPONDED_TO: request.number(MESSAGE_ID),
        COMMAND_DATA_SET_TYPE: NO_DATA_SET,
        STATUS: status,
        ERROR_COMMENT: comment[:MAX_COMMENT_CHARACTERS],
        AFFECTED_SOP_INSTANCE_UID: requested or sop_instance_uid,
    }
    return encode({element: value for element, value in values.items() if value != ""})


def commitment_result(message_id: int, event_type: int) -> bytes:
    """Return the command set of an N-EVENT-REPORT-RQ of storage commitment (PS3.7 10.3.1, PS3.4 J.3.3)."""
    return encode(
        {
            AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH_MODEL,
            COMMAND_FIELD: N_EVENT_REPORT_RQ,
            MESSAGE_ID: message_id,
            COMMAND_DATA_SET_TYPE: WITH_DATA_SET,
            AFFECTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_INSTANCE,
            EVENT_TYPE_ID: event_type,
        }
    )


def fragments(context_id: int, encoded: bytes, *, command: bool, maximum: int) -> Iterator[bytes]:
    """Yield *encoded* as contents of P-DATA-TF PDUs of at most *maximum* bytes, the peer's limit; 0 is no limit."""
    step = max(maximum - PDV_HEADER.size, 1) if maximum else max(len(encoded), 1)
    for offset in range(0, max(len(encoded), 1), step):
        fragment = encoded[offset : offset + step]
        control = (COMMAND if command else 0) | (LAST if offset + step >= len(encoded) else 0)
        yield PDV_HEADER.pack(len(fragment) + 2, context_id, control) + fragment
