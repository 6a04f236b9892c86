"""Peers that violate the protocol: each gets a response or is disconnected, and does not affect others."""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from db import log_budget
from db.limits import MAX_INFLATED_BYTES
from db.operations import disk
from db.operations.listener_status import Kind
from dicom_listener.receive import counters, messages, pdus, status_file
from dicom_listener.receive.listener import Listener
from dicom_listener.receive.seats import MAX_PENDING_PER_ADDRESS
from dicom_listener.receive.upper_layer import association, negotiation
from dicom_listener.receive.upper_layer import wire as listening_wire
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.fuzz import wire
from tests.fuzz.wire import ABORT, COMMAND, LAST, P_DATA_TF, Client, ct_slice, echoes, pdu, pdv
from tests.integration.dicom_listener.listening import connections, settings_for, slot_of_listener, stored
from tests.polling import wait_until

if TYPE_CHECKING:
    from db.settings import Settings


DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
#: Linux delays the acknowledgement of a small segment by this.
DELAYED_ACK_SECONDS = 0.04


def resident_bytes() -> int:
    """Resident memory of this process, the listener included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def is_disconnected(client: Client) -> bool:
    """Return whether the listener sends A-ABORT or closes the connection."""
    try:
        kind, _ = client.read()
    except ConnectionError:
        return True
    return kind == ABORT


def parts(settings: Settings) -> int:
    """Count the files that are being written."""
    with os.scandir(slot_of_listener(settings).inbox) as entries:
        return sum(size_of(entry) > 0 for entry in entries if entry.name.endswith(".part"))


def size_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:  # removed since the directory was listed
        return 0


def test_sixty_pending_connections_do_not_exclude_a_c_echo(listener: Listener) -> None:
    pending = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(60)]
    assert echoes(listener.port)
    wait_until(lambda: connections() <= MAX_PENDING_PER_ADDRESS + 1)
    for connection in pending:
        connection.close()


def test_pending_connections_below_the_limit_are_served(listener: Listener) -> None:
    waiting = [Client(listener.port) for _ in range(MAX_PENDING_PER_ADDRESS - 2)]
    assert echoes(listener.port)
    assert all(client.associate().echo() == 0 for client in waiting)
    for client in waiting:
        client.connection.close()


def test_connections_reset_at_once_do_not_stop_the_listener(listener: Listener) -> None:
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", listener.port)) as connection:
            # A reset instead of an orderly close.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert echoes(listener.port)


def test_association_survives_pending_connections(listener: Listener) -> None:
    with Client(listener.port) as client:
        client.associate()
        pending = [socket.create_connection(("127.0.0.1", listener.port)) for _ in range(60)]
        assert client.echo() == 0
        for connection in pending:
            connection.close()


@pytest.mark.parametrize("kind", [wire.ASSOCIATE_RQ, P_DATA_TF])
def test_pdu_header_with_four_gigabytes_uses_no_memory(listener: Listener, kind: int) -> None:
    before = resident_bytes()
    with Client(listener.port) as client:
        client.send(pdu(kind, b"", length=4_000_000_000))
        assert is_disconnected(client)
    assert resident_bytes() - before < 8 * 2**20
    assert echoes(listener.port)


def test_pdu_longer_than_negotiated_is_aborted(listener: Listener, settings: Settings) -> None:
    with Client(listener.port) as client:
        client.associate()
        client.send(pdu(P_DATA_TF, b"", length=settings.dicom.max_pdu_bytes + 1))
        assert client.read() == (ABORT, bytes((0, 0, 2, pdus.INVALID_PARAMETER)))


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", bytes(64), pdu(9, b""), pdu(wire.ASSOCIATE_RQ, b""), pdu(P_DATA_TF, bytes(10))],
    ids=["http", "zeros", "unknown", "empty request", "data first"],
)
def test_other_bytes_than_an_association_request_are_aborted(listener: Listener, garbage: bytes) -> None:
    with Client(listener.port) as client:
        client.send(garbage)
        assert is_disconnected(client)


def test_more_than_128_presentation_contexts_are_aborted(listener: Listener) -> None:
    with Client(listener.port) as client:
        contexts = tuple((1, wire.VERIFICATION, (wire.IMPLICIT_VR_LITTLE_ENDIAN,)) for _ in range(129))
        client.send(wire.associate_rq(contexts))
        assert is_disconnected(client)


REQUEST = wire.associate_rq()
ECHO_CONTEXT = wire.presentation_context(1, [wire.VERIFICATION], [wire.IMPLICIT_VR_LITTLE_ENDIAN])


def request_of(*contexts: bytes) -> bytes:
    """An A-ASSOCIATE-RQ with these presentation contexts."""
    return wire.associate_rq_of(wire.APPLICATION_CONTEXT, *contexts, wire.user_information())


@pytest.mark.parametrize(
    "malformed",
    [
        wire.associate_rq(((2, wire.VERIFICATION, (wire.IMPLICIT_VR_LITTLE_ENDIAN,)),)),
        wire.associate_rq(((1, wire.VERIFICATION, ()),)),
        wire.associate_rq(((1, "1." + "2" * 80, (wire.IMPLICIT_VR_LITTLE_ENDIAN,)),)),
        wire.associate_rq(()),
        wire.associate_rq(calling=b" " * 16),
        pdu(wire.ASSOCIATE_RQ, REQUEST[6:40]),
        pdu(wire.ASSOCIATE_RQ, REQUEST[6:-20]),
        request_of(ECHO_CONTEXT, wire.presentation_context(3, [], [wire.IMPLICIT_VR_LITTLE_ENDIAN])),
        request_of(wire.presentation_context(1, [""], [wire.IMPLICIT_VR_LITTLE_ENDIAN])),
        request_of(wire.presentation_context(1, [wire.VERIFICATION] * 2, [wire.IMPLICIT_VR_LITTLE_ENDIAN])),
        request_of(ECHO_CONTEXT, ECHO_CONTEXT),
        wire.associate_rq_of(ECHO_CONTEXT, wire.user_information()),
        wire.associate_rq_of(wire.APPLICATION_CONTEXT, wire.APPLICATION_CONTEXT, ECHO_CONTEXT, wire.user_information()),
        wire.associate_rq_of(wire.APPLICATION_CONTEXT, ECHO_CONTEXT),
        wire.associate_rq_of(wire.APPLICATION_CONTEXT, ECHO_CONTEXT, wire.user_information(), wire.user_information()),
        request_of(struct.pack(">BxHI", 0x20, 5000, 0x01000000)),
    ],
    ids=[
        "even id",
        "no syntax",
        "long uid",
        "no context",
        "no title",
        "truncated",
        "truncated item",
        "no abstract syntax",
        "empty abstract syntax",
        "two abstract syntaxes",
        "one id twice",
        "no application context",
        "two application contexts",
        "no user information",
        "two of user information",
        "item longer than the request",
    ],
)
def test_malformed_association_request_is_aborted(listener: Listener, malformed: bytes) -> None:
    with capture_logs() as lines, Client(listener.port) as client:
        kind, _ = client.ask(malformed)
        assert kind == ABORT
        wait_until(lambda: connections() == 0)
    assert [(line["event"], line["log_level"]) for line in lines] == [("association.aborted", "info")]
    assert echoes(listener.port)


@pytest.mark.parametrize(
    "request_pdu",
    [
        wire.associate_rq_of(wire.APPLICATION_CONTEXT, ECHO_CONTEXT, wire.item(0x50, b"")),
        wire.associate_rq_of(wire.item(0x10, b"1.2.840.10008.3.1.1.1\0"), ECHO_CONTEXT, wire.user_information()),
        wire.associate_rq_of(wire.user_information(), ECHO_CONTEXT, wire.APPLICATION_CONTEXT),
    ],
    ids=["empty user information", "padded name", "another order"],
)
def test_request_that_is_only_unusual_is_accepted(listener: Listener, request_pdu: bytes) -> None:
    with Client(listener.port) as client:
        assert client.ask(request_pdu)[0] == wire.ASSOCIATE_AC
        assert client.echo() == 0


def test_other_application_context_is_rejected_for_good(listener: Listener) -> None:
    with Client(listener.port) as client:
        answer = client.ask(wire.associate_rq_of(wire.item(0x10, b"1.2.3"), ECHO_CONTEXT, wire.user_information()))
        assert answer == (wire.ASSOCIATE_RJ, bytes((0, 1, 1, 2)))


@pytest.mark.parametrize("is_associated", [False, True])
def test_fault_of_the_program_is_told_to_the_peer_and_logged_within_the_limit(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, *, is_associated: bool
) -> None:
    def fail(_: object) -> None:
        raise AttributeError

    monkeypatch.setattr(log_budget, "MAX_LINES_PER_MINUTE", 2)
    if is_associated:
        monkeypatch.setattr(pdus, "pdvs", fail)
    else:
        monkeypatch.setattr(negotiation, "check", fail)
    with capture_logs() as lines:
        for _ in range(4):
            with Client(listener.port) as client:
                client.send(REQUEST)
                if is_associated:
                    client.read()
                    client.send(pdu(P_DATA_TF, pdv(1, COMMAND | LAST, wire.c_echo_rq())))
                assert client.read() == (ABORT, bytes((0, 0, 2, pdus.NOT_SPECIFIED)))
        wait_until(lambda: connections() == 0)
    assert [line["log_level"] for line in lines if line["event"] == "association.failed"].count("error") == 2


STORE_RQ = pdv(3, COMMAND | LAST, wire.c_store_rq("1.2.3"))


@pytest.mark.parametrize(
    "content",
    [
        pdv(3, LAST, b"data before any command"),
        STORE_RQ + STORE_RQ,
        STORE_RQ + pdv(1, LAST, b"data in another context"),
        pdv(5, COMMAND | LAST, wire.c_store_rq("1.2.3")),
        pdv(1, COMMAND | LAST, b"\0\0\2\0\xff\xff\xff\xff"),
        pdv(1, COMMAND | LAST, b""),
        pdv(1, COMMAND | LAST, wire.command({0x0100: 0x8001, 0x0110: 1, 0x0800: 0x0101})),
        pdv(1, COMMAND, bytes(20_000)),
        pdv(1, COMMAND | LAST, b"x", length=1),
        pdv(1, COMMAND | LAST, b"x", length=2**31),
        b"\0\0",
        b"",
    ],
)
def test_message_out_of_order_is_aborted(listener: Listener, settings: Settings, content: bytes) -> None:
    with Client(listener.port) as client:
        client.associate()
        client.send(pdu(P_DATA_TF, content))
        assert is_disconnected(client)
    assert echoes(listener.port)
    wait_until(lambda: parts(settings) == 0)


def test_connection_lost_during_an_object_leaves_nothing(listener: Listener, settings: Settings) -> None:
    with Client(listener.port) as client:
        client.associate()
        client.send(pdu(P_DATA_TF, STORE_RQ + pdv(3, 0, bytes(5000))))
        wait_until(lambda: parts(settings) == 1)
    wait_until(lambda: parts(settings) == 0)
    assert stored(settings) == []
    wait_until(lambda: not list(slot_of_listener(settings).associations.iterdir()))


def test_release_during_an_object_leaves_nothing(listener: Listener, settings: Settings) -> None:
    with Client(listener.port) as client:
        client.associate()
        client.send(pdu(P_DATA_TF, STORE_RQ + pdv(3, 0, bytes(5000))))
        client.release()
    wait_until(lambda: parts(settings) == 0)
    assert stored(settings) == []


def test_slow_pdu_is_aborted(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening_wire, "PDU_SECONDS", 0.5)
    with Client(listener.port) as client:
        client.associate()
        client.send(pdu(P_DATA_TF, b"", length=1000))
        assert is_disconnected(client)


def test_idle_association_is_closed(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(association, "IDLE_SECONDS", 0.5)
    with Client(listener.port) as client:
        client.associate()
        assert is_disconnected(client)


def test_failed_removal_does_not_leak_an_association(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with Listener(settings_for(tmp_path, max_associations=1)) as listener:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", fail)
            with Client(listener.port) as client:
                client.associate()
                client.send(pdu(P_DATA_TF, STORE_RQ + pdv(3, 0, bytes(5000))))
            wait_until(lambda: connections() == 0)
        assert echoes(listener.port)


def test_association_above_the_limit_is_rejected_as_transient(tmp_path: Path) -> None:
    with Listener(settings_for(tmp_path, max_associations=1)) as listener, Client(listener.port) as first:
        first.associate()
        with Client(listener.port) as second:
            assert second.ask(wire.associate_rq()) == (wire.ASSOCIATE_RJ, bytes((0, 2, 3, 2)))
        first.release()
        wait_until(lambda: echoes_or_not(listener.port))


def echoes_or_not(port: int) -> bool:
    try:
        return echoes(port)
    except AssertionError:
        return False


@pytest.mark.parametrize(
    ("uid", "study", "expected"),
    [
        ("../../../etc/passwd", "1.2", 0xC002),
        ("1.2/3", "1.2", 0xC002),
        ("1.2\0.3", "1.2", 0xC002),
        ("1." + "2" * 64, "1.2", 0xC002),
        ("1.2.3", "/etc/passwd", 0xC002),
        ("1.2.3", "", 0xC001),
        ("", "1.2", 0xC001),
    ],
)
def test_invalid_uid_is_refused(listener: Listener, settings: Settings, uid: str, study: str, expected: int) -> None:
    with Client(listener.port) as client:
        assert client.associate().store(uid, ct_slice(uid, study=study)) == expected
        assert client.store("1.2.3.4", ct_slice("1.2.3.4")) == 0, "the association continues"
    assert [meta.sop_instance_uid for meta, _ in stored(settings)] == ["1.2.3.4"]


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ("SERIES_1{a}", 0),
        ("1.2.840.01.00", 0),
        ("1..2.", 0),
        (" 1.2 ", 0),
        ("1." + "2" * 80, 0),
        ("../../etc", 0xC002),
        ("1\\2", 0xC002),
        ("1\n2", 0xC002),
        ("1\xe92", 0xC002),
        ("x" * 130, 0xC002),
        ("  ", 0xC001),
    ],
)
def test_series_uid_is_refused_only_if_it_cannot_be_kept(listener: Listener, series: str, expected: int) -> None:
    with Client(listener.port) as client:
        assert client.associate().store("1.2.3", ct_slice("1.2.3", series=series)) == expected


@pytest.mark.parametrize("uid", ["1.02.003", "1.2.3.", "1..2"])
def test_uid_of_digits_and_dots_is_accepted(listener: Listener, uid: str) -> None:
    with Client(listener.port) as client:
        assert client.associate().store(uid, ct_slice(uid, study=uid)) == 0


def test_data_set_with_another_sop_instance_is_refused(listener: Listener) -> None:
    with Client(listener.port) as client:
        assert client.associate().store("1.2.3", ct_slice("1.2.4")) == 0xA900


def test_data_set_with_another_sop_class_is_refused(listener: Listener) -> None:
    mismatch = ct_slice("1.2.3").replace(wire.CT_IMAGE_STORAGE.encode(), b"1.2.840.10008.5.1.4.1.1.4")
    with Client(listener.port) as client:
        assert client.associate().store("1.2.3", mismatch) == 0xA900


def test_sop_class_of_another_context_is_refused(listener: Listener) -> None:
    request = pdv(3, COMMAND | LAST, wire.c_store_rq("1.2.3", "1.2.840.10008.5.1.4.1.1.4"))
    with Client(listener.port) as client:
        client.associate()
        assert wire.status(client.ask(pdu(P_DATA_TF, request + pdv(3, LAST, ct_slice("1.2.3"))))) == 0x0122


def test_truncated_image_is_refused(listener: Listener, settings: Settings) -> None:
    with Client(listener.port) as client:
        assert client.associate().store("1.2.3", ct_slice("1.2.3", pixels=5000)[:-1]) == 0xC003
    assert stored(settings) == []


def test_deep_nesting_is_refused(listener: Listener) -> None:
    level = struct.pack("<HH2sHIHHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    with Client(listener.port) as client:
        assert client.associate().store("1.2.3", ct_slice("1.2.3") + level * 2000) == 0xC004


def test_deflate_bomb_is_refused_and_uses_no_memory(listener: Listener, settings: Settings) -> None:
    zeros = MAX_INFLATED_BYTES + 2**20
    head = ct_slice("1.2.3", pixels=0)[:-4] + struct.pack("<I", zeros)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = deflater.compress(head)
    bomb += b"".join(deflater.compress(bytes(2**20)) for _ in range(zeros // 2**20)) + deflater.flush()
    contexts = ((3, wire.CT_IMAGE_STORAGE, (DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,)),)
    before = resident_bytes()
    with Client(listener.port, seconds=60) as client:
        assert client.associate(contexts).store("1.2.3", bomb) == 0xC005
    assert resident_bytes() - before < 16 * 2**20
    assert len(bomb) < 2**20
    assert stored(settings) == []


def test_unknown_operation_returns_0211(listener: Listener) -> None:
    find = wire.command({0x0002: wire.VERIFICATION, 0x0100: 0x0020, 0x0110: 1, 0x0800: 0x0101})
    with Client(listener.port) as client:
        client.associate()
        assert wire.status(client.ask(pdu(P_DATA_TF, pdv(1, COMMAND | LAST, find)))) == 0x0211


def test_full_disk_returns_a700_and_recovers(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client(listener.port) as client:
        client.associate()
        with monkeypatch.context() as patch:
            patch.setattr(disk, "RESERVED_BYTES", 2**62)
            assert client.store("1.2.3", ct_slice("1.2.3")) == 0xA700
        assert client.store("1.2.3", ct_slice("1.2.3")) == 0


def test_control_characters_in_an_ae_title_are_tolerated(listener: Listener) -> None:
    with Client(listener.port) as client:
        client.send(wire.associate_rq(calling=bytes(range(16))))
        assert client.read()[0] in {wire.ASSOCIATE_AC, ABORT}
    assert echoes(listener.port)


def test_refusals_are_counted_by_sender_and_cause(listener: Listener, settings: Settings) -> None:
    with Client(listener.port) as client:
        client.associate(calling=b"CT_1")
        for _ in range(3):
            client.store("1.2.3", ct_slice("1.2.4"))
    cause = "the SOP Instance UID differs from the command's"
    wait_until(lambda: (status_file.read(slot_of_listener(settings).status) or {})["refused"] == [["CT_1", cause, 3]])
    found = status_file.read(slot_of_listener(settings).status)
    assert found is not None
    assert [row[:3] for row in found["causes"]] == [["object", cause, 3]]


def test_full_disk_leaves_the_listener_alive_for_the_dispatcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "listener.json"
    status_file.write(path, {"process": "host:1", "open": 1})
    os.utime(path, (0, 0))
    assert status_file.read(path) is None

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", fail)
    status_file.write(path, {"process": "host:1", "open": 2})
    assert status_file.read(path) == {"process": "host:1", "open": 1}


def test_log_lines_for_refusals_are_limited(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_REFUSALS_LOGGED", 2)
    with capture_logs() as lines, Client(listener.port) as client:
        client.associate()
        for _ in range(5):
            client.store("1.2.3", ct_slice("1.2.4"))
        client.release()
        wait_until(lambda: connections() == 0)
    assert [line["event"] for line in lines] == ["request.refused", "request.refused", "association.released"]
    assert lines[-1]["statuses"] == {"A900": 5}


def test_log_lines_for_associations_are_limited(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_budget, "MAX_LINES_PER_MINUTE", 2)
    with capture_logs() as lines:
        for _ in range(5):
            with Client(listener.port) as client:
                client.associate().release()
        wait_until(lambda: connections() == 0)
    assert [line["log_level"] for line in lines].count("info") == 2


def test_number_of_counted_titles_is_limited() -> None:
    counts = counters.RefusalCounter()
    for number in range(counters.MAX_KEYS + 500):
        counts.add(Kind.ASSOCIATION, f"AE{number}", "unknown")
    rows = counts.by_sender()
    assert len(rows) == counters.MAX_KEYS + 1
    assert rows[0] == (counters.OTHERS, "", 500)


def test_large_object_does_not_stay_in_memory(listener: Listener, settings: Settings) -> None:
    pixels = 200 * 2**20
    before = resident_bytes()
    head = ct_slice("1.2.3", pixels=0)
    head = head[:-4] + struct.pack("<I", pixels)
    chunk = pdu(P_DATA_TF, pdv(3, 0, bytes(100_000)))
    with Client(listener.port) as client:
        client.associate()
        client.send(pdu(P_DATA_TF, STORE_RQ + pdv(3, 0, head)))
        for _ in range(pixels // 100_000):
            client.send(chunk)
        rest = pixels % 100_000
        assert wire.status(client.ask(pdu(P_DATA_TF, pdv(3, LAST, bytes(rest))))) == 0
    assert resident_bytes() - before < 16 * 2**20
    [path] = received(Spool(settings.spool))
    assert path.stat().st_size > pixels


def test_sender_with_nagle_and_split_pdus_is_not_stalled(listener: Listener) -> None:
    """DCMTK writes header and body of a PDU apart; with Nagle and a delayed ACK, every exchange takes 40 ms."""
    body = ct_slice("1.2.3", pixels=20_000)
    with Client(listener.port) as client:
        client.associate()
        client.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        stalled = 0
        for _ in range(25):
            began = time.monotonic()
            data = pdu(P_DATA_TF, pdv(3, LAST, body))
            client.send(pdu(P_DATA_TF, STORE_RQ))
            client.send(data[:12])
            client.send(data[12:])
            assert wire.status(client.read()) == 0
            stalled += time.monotonic() - began >= DELAYED_ACK_SECONDS
    assert stalled < 25, "a loaded machine delays some of them, a delayed ACK all"
