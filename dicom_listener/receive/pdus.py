"""PDUs of the DICOM upper layer (PS3.8 9.3): kinds, headers, and the ends of an association that they cause."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)

#: Reasons of an A-ABORT by the service provider (PS3.8 9.3.8).
NOT_SPECIFIED, UNRECOGNIZED_PDU, UNEXPECTED_PDU, INVALID_PARAMETER = 0, 1, 2, 6

PDU_HEADER = struct.Struct(">BxI")
PDV_HEADER = struct.Struct(">IBB")
#: Bits of a PDV's message control header (PS3.8 E.2).
COMMAND, LAST = 1, 2


class ConnectionClosed(Exception):
    """Raised when no response is possible: connection closed, deadline passed, or listener stopping."""


class IdleTooLong(ConnectionClosed):
    """Raised when the peer has sent nothing for too long, between two PDUs."""


class Abort(Exception):
    """Raised when the peer violates the protocol: the association ends with an A-ABORT that carries *reason*."""

    def __init__(self, cause: str, reason: int) -> None:
        self.reason = reason
        super().__init__(cause)


def encode(kind: int, content: bytes) -> bytes:
    """Return a PDU of this *kind*."""
    return PDU_HEADER.pack(kind, len(content)) + content


def pdvs(content: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Yield context id, control header and fragment of each presentation data value of a P-DATA-TF; raises Abort."""
    if not content:  # has no effect, but would keep an idle association open
        raise Abort("P-DATA-TF without a PDV", INVALID_PARAMETER)
    offset = 0
    while offset < len(content):
        if offset + PDV_HEADER.size > len(content):
            raise Abort("PDV without a header", INVALID_PARAMETER)
        length, context_id, control = PDV_HEADER.unpack_from(content, offset)
        end = offset + 4 + length
        if length < 2 or end > len(content):  # noqa: PLR2004 - context id and control header
            raise Abort(f"invalid PDV length ({length} bytes)", INVALID_PARAMETER)
        yield context_id, control, content[offset + PDV_HEADER.size : end]
        offset = end
