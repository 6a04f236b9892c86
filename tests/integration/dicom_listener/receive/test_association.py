"""Log lines and marks of an association."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from dicom_listener.receive.listener import Listener
from dicom_listener.spool.associations import AssociationMarks, Transfer
from tests.fuzz.wire import (
    ABORT,
    ASSOCIATE_RQ,
    P_DATA_TF,
    RELEASE_RP,
    RELEASE_RQ,
    Client,
    associate_rq,
    c_store_rq,
    ct_slice,
    pdu,
    pdv,
)
from tests.integration.dicom_listener.listening import connections, slot_of_listener
from tests.polling import wait_until

if TYPE_CHECKING:
    from db.settings import Settings

REQUEST = associate_rq()
UNREADABLE = "malformed A-ASSOCIATE-RQ, or an unknown version of the protocol"
FIELDS = ("association_id", "address", "calling_ae_title", "called_ae_title")


def lines_of(listener: Listener, calling: bytes) -> list[dict[str, Any]]:
    """The log lines of an association with a refused object."""
    with capture_logs(processors=[merge_contextvars]) as lines:
        with Client(listener.port) as client:
            client.associate(calling=calling)
            assert client.store("1.2.3", ct_slice("1.2.4")) == 0xA900
            client.release()
        wait_until(lambda: lines[-1:] != [] and lines[-1]["event"] == "association.released")
    return [dict(line) for line in lines]


def test_every_log_line_has_the_ids_of_its_association_only(listener: Listener) -> None:
    first, second = lines_of(listener, b"CT_1"), lines_of(listener, b"CT_2")
    assert [line["event"] for line in first] == ["request.refused", "association.released"]
    for lines, calling in ((first, "CT_1"), (second, "CT_2")):
        assert {tuple(line[field] for field in FIELDS[1:]) for line in lines} == {("127.0.0.1", calling, "PRELIM")}
    ids = [{line["association_id"] for line in lines} for lines in (first, second)]
    assert [len(each) for each in ids] == [1, 1]
    assert ids[0].isdisjoint(ids[1])


@pytest.fixture
def marks(settings: Settings) -> AssociationMarks:
    return AssociationMarks(slot_of_listener(settings))


def test_open_association_is_marked_with_the_study_it_sends(listener: Listener, marks: AssociationMarks) -> None:
    with Client(listener.port) as client:
        client.associate()
        for study in ("1.2.3", "1.2.4"):
            assert client.store(f"{study}.1", ct_slice(f"{study}.1", study=study)) == 0
        wait_until(lambda: [mark.study_instance_uid for mark in marks.open()] == ["1.2.4"])
        client.send(pdu(P_DATA_TF, pdv(3, 3, c_store_rq("1.2.5.1")) + pdv(3, 0, ct_slice("1.2.5.1", study="1.2.5"))))
        wait_until(lambda: [(mark.study_instance_uid, mark.receiving) for mark in marks.open()] == [("1.2.5", True)])
    wait_until(lambda: [mark.study_instance_uid for mark in marks.broken()] == ["1.2.5"])
    assert marks.open() == []


def test_released_association_leaves_no_mark(listener: Listener, marks: AssociationMarks) -> None:
    with Client(listener.port) as client:
        client.associate()
        assert client.store("1.2.3.1", ct_slice("1.2.3.1")) == 0
        assert [mark.receiving for mark in marks.open()] == [False]
        client.release()
    wait_until(lambda: marks.open() == [])
    assert marks.broken() == []


def test_associations_of_a_killed_listener_broke_off(settings: Settings, marks: AssociationMarks) -> None:
    with Listener(settings):
        pass
    marks.write(Transfer("earlier", "1.2.3"))
    with Listener(settings):
        assert [mark.association_id for mark in marks.broken()] == ["earlier"]
        assert marks.open() == []


@pytest.mark.parametrize(
    ("sent", "event", "cause"),
    [
        (REQUEST.replace(bytes((0, 1, 0, 0)), bytes((0, 2, 0, 0)), 1), "association.aborted", UNREADABLE),
        (REQUEST.replace(bytes((0x20, 0)), bytes((0x20, 1)), 1)[:-9], "association.lost", None),
        (pdu(ASSOCIATE_RQ, REQUEST[6:-20]), "association.aborted", "an item that is longer than its PDU"),
        (REQUEST + pdu(ABORT, bytes((0, 0, 2, 99))), "association.aborted", "A-ABORT of the peer"),
        (REQUEST + pdu(ABORT, b""), "association.aborted", "A-ABORT of the peer"),
        (REQUEST + pdu(RELEASE_RQ, b"\1" * 9), "association.released", None),
        (REQUEST + REQUEST, "association.aborted", "PDU type 1 in an association"),
        (REQUEST + pdu(RELEASE_RP, bytes(4)), "association.aborted", "PDU type 6 in an association"),
        (pdu(RELEASE_RQ, bytes(4)), "association.aborted", "PDU type 5 before an association"),
    ],
)
def test_every_end_has_one_line_with_its_cause(listener: Listener, sent: bytes, event: str, cause: str | None) -> None:
    with capture_logs() as lines:
        with Client(listener.port) as client:
            client.send(sent)
            client.connection.shutdown(socket.SHUT_WR)
            wait_until(lambda: lines != [])
        wait_until(lambda: connections() == 0)
    [line] = lines
    assert (line["event"], line.get("cause")) == (event, cause or line.get("cause"))
