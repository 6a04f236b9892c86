"""A DICOM client that encodes every byte itself, so that it can violate the protocol."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA_TF, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
COMMAND, LAST = 1, 2
VERIFICATION = "1.2.840.10008.1.1"
CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
#: Context 1 for C-ECHO, context 3 for C-STORE.
CONTEXTS = (
    (1, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    (3, CT_IMAGE_STORAGE, (EXPLICIT_VR_LITTLE_ENDIAN,)),
)
Contexts = tuple[tuple[int, str, tuple[str, ...]], ...]


def pdu(kind: int, content: bytes, length: int | None = None) -> bytes:
    """Encode a PDU; *length* replaces the true one."""
    return struct.pack(">BxI", kind, len(content) if length is None else length) + content


def item(kind: int, content: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(content)) + content


def presentation_context(number: int, abstracts: Iterable[str], syntaxes: Iterable[str]) -> bytes:
    """A presentation context item of an A-ASSOCIATE-RQ (PS3.8 9.3.2.2), with any number of abstract syntaxes."""
    items = [item(0x30, abstract.encode()) for abstract in abstracts]
    items += [item(0x40, syntax.encode()) for syntax in syntaxes]
    return item(0x20, bytes((number, 0, 0, 0)) + b"".join(items))


def user_information(maximum: int = 16384) -> bytes:
    return item(0x50, item(0x51, struct.pack(">I", maximum)) + item(0x52, b"1.2.826.0.1.3680043.10.1511"))


APPLICATION_CONTEXT = item(0x10, b"1.2.840.10008.3.1.1.1")


def associate_rq(
    contexts: Contexts = CONTEXTS, called: bytes = b"PRELIM", calling: bytes = b"FUZZ", maximum: int = 16384
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    proposed = [presentation_context(number, [abstract], syntaxes) for number, abstract, syntaxes in contexts]
    return associate_rq_of(APPLICATION_CONTEXT, *proposed, user_information(maximum), called=called, calling=calling)


def associate_rq_of(*items: bytes, called: bytes = b"PRELIM", calling: bytes = b"FUZZ") -> bytes:
    """An A-ASSOCIATE-RQ with these items only."""
    titles = called.ljust(16) + calling.ljust(16)
    return pdu(ASSOCIATE_RQ, struct.pack(">HH", 1, 0) + titles + bytes(32) + b"".join(items))


def pdv(context_id: int, control: int, fragment: bytes, length: int | None = None) -> bytes:
    """Encode a presentation data value; *length* replaces the true one."""
    return struct.pack(">IBB", len(fragment) + 2 if length is None else length, context_id, control) + fragment


def command(values: dict[int, int | str]) -> bytes:
    """A command set with its group length (PS3.7 6.3.1)."""
    body = b"".join(_element(element, value) for element, value in sorted(values.items()))
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def _element(element: int, value: int | str) -> bytes:
    encoded = struct.pack("<H", value) if isinstance(value, int) else value.encode("latin-1")
    encoded += b"\0" * (len(encoded) % 2)
    return struct.pack("<HHI", 0, element, len(encoded)) + encoded


def explicit(tag: int, vr: bytes, value: bytes) -> bytes:
    """A data element in Explicit VR Little Endian, of a VR with a short length (PS3.5 7.1.2)."""
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def implicit(tag: int, value: bytes) -> bytes:
    """A data element, or an item, in Implicit VR Little Endian (PS3.5 7.1.3)."""
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def c_echo_rq(message_id: int = 1) -> bytes:
    """The command set of a C-ECHO-RQ (PS3.7 9.3.5)."""
    return command({0x0002: VERIFICATION, 0x0100: 0x0030, 0x0110: message_id, 0x0800: 0x0101})


def c_store_rq(sop_instance_uid: str, sop_class_uid: str = CT_IMAGE_STORAGE, priority: int = 0) -> bytes:
    """The command set of a C-STORE-RQ (PS3.7 9.3.1)."""
    return command(
        {0x0002: sop_class_uid, 0x0100: 0x0001, 0x0110: 1, 0x0700: priority, 0x0800: 0x0001, 0x1000: sop_instance_uid}
    )


def ct_slice(sop_instance_uid: str, pixels: int = 64, **uids: str) -> bytes:
    """A CT object in Explicit VR Little Endian, as small as it can be; *study* and *series* replace its UIDs.

    *requested_priority* is its Requested Procedure Priority.
    """
    values = (
        (0x0008, 0x0016, b"UI", CT_IMAGE_STORAGE),
        (0x0008, 0x0018, b"UI", sop_instance_uid),
        (0x0020, 0x000D, b"UI", uids.get("study", "1.2.3.4")),
        (0x0020, 0x000E, b"UI", uids.get("series", "1.2.3.4.5")),
    )
    encoded = b""
    for group, element, vr, text in values:
        value = text.encode("latin-1") + b"\0" * (len(text) % 2)
        encoded += struct.pack("<HH2sH", group, element, vr, len(value)) + value
    if "requested_priority" in uids:
        encoded += explicit(0x00401003, b"SH", uids["requested_priority"].encode())
    return encoded + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, pixels) + bytes(pixels)


@dataclass
class Client:
    """One TCP connection to a listener."""

    port: int
    seconds: float = 10
    connection: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=self.seconds)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def send(self, content: bytes) -> None:
        self.connection.sendall(content)

    def read(self) -> tuple[int, bytes]:
        """Return type and content of the next PDU; raises ConnectionError if the listener has closed the connection."""
        kind, length = struct.unpack(">BxI", self._receive(6))
        return kind, self._receive(length)

    def ask(self, content: bytes) -> tuple[int, bytes]:
        self.send(content)
        return self.read()

    def associate(self, contexts: Contexts = CONTEXTS, **values: Any) -> Self:
        kind, content = self.ask(associate_rq(contexts, **values))
        assert kind == ASSOCIATE_AC, (kind, content)
        return self

    def echo(self) -> int:
        """C-ECHO; returns the status."""
        return status(self.ask(pdu(P_DATA_TF, pdv(1, COMMAND | LAST, c_echo_rq()))))

    def store(self, sop_instance_uid: str, data_set: bytes, step: int = 16000, priority: int = 0) -> int:
        """C-STORE in context 3; returns the status."""
        self.send(pdu(P_DATA_TF, pdv(3, COMMAND | LAST, c_store_rq(sop_instance_uid, priority=priority))))
        for offset in range(0, len(data_set), step):
            fragment = data_set[offset : offset + step]
            self.send(pdu(P_DATA_TF, pdv(3, LAST if offset + step >= len(data_set) else 0, fragment)))
        return status(self.read())

    def request(self, context_id: int, command_set: bytes, data_set: bytes) -> int:
        """Send a request with a data set; returns the status."""
        return status(
            self.ask(pdu(P_DATA_TF, pdv(context_id, COMMAND | LAST, command_set) + pdv(context_id, LAST, data_set)))
        )

    def release(self) -> None:
        assert self.ask(pdu(RELEASE_RQ, bytes(4)))[0] == RELEASE_RP

    def _receive(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            more = self.connection.recv(size - len(content))
            if not more:
                raise ConnectionError("the listener closed the connection")
            content += more
        return content


def status(answer: tuple[int, bytes]) -> int:
    """Return the status in a response PDU."""
    kind, content = answer
    assert kind == P_DATA_TF, answer
    at = content.index(struct.pack("<HHI", 0, 0x0900, 2))
    return int(struct.unpack_from("<H", content, at + 8)[0])


def echoes(port: int) -> bool:
    """Return whether a valid C-ECHO succeeds."""
    with Client(port) as client:
        return client.associate().echo() == 0
