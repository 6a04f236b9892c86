"""Statuses of storage commitment and of procedure steps: those of PS3.7 C, never those of storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from db.operations import disk
from dicom_listener.dicom import uids
from dicom_listener.receive.listener import Listener
from dicom_listener.receive.n_services import COMPLETED, StepSetHandler
from dicom_listener.spool import writer
from tests.fuzz import wire
from tests.fuzz.wire import IMPLICIT_VR_LITTLE_ENDIAN, Client, implicit
from tests.integration.dicom_listener.listening import settings_for, stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings

COMMITMENT, STEP = 5, 7
CONTEXTS = (
    (COMMITMENT, uids.STORAGE_COMMITMENT_PUSH_MODEL, (IMPLICIT_VR_LITTLE_ENDIAN,)),
    (STEP, uids.MODALITY_PERFORMED_PROCEDURE_STEP, (IMPLICIT_VR_LITTLE_ENDIAN,)),
)
ITEM = implicit(0xFFFEE000, b"")
TRANSACTION, REFERENCES = implicit(0x00081195, b"1.2.3.4\0"), implicit(0x00081199, ITEM)


def step(state: bytes) -> bytes:
    return implicit(0x00400252, state + b" " * (len(state) % 2)) + implicit(0x00400270, ITEM)


def n_create(uid: str, data_set: int = 1) -> bytes:
    values = {0x0002: uids.MODALITY_PERFORMED_PROCEDURE_STEP, 0x0100: 0x0140, 0x0110: 1, 0x0800: data_set, 0x1000: uid}
    return wire.command(values)


def n_set(uid: str, data_set: int = 1) -> bytes:
    values = {0x0003: uids.MODALITY_PERFORMED_PROCEDURE_STEP, 0x0100: 0x0120, 0x0110: 1, 0x0800: data_set, 0x1001: uid}
    return wire.command(values)


def n_action(data_set: int = 1) -> bytes:
    named = {0x0003: uids.STORAGE_COMMITMENT_PUSH_MODEL, 0x1001: uids.STORAGE_COMMITMENT_INSTANCE, 0x1008: 1}
    return wire.command(named | {0x0100: 0x0130, 0x0110: 1, 0x0800: data_set})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(tmp_path, mpps=True)


@pytest.fixture
def client(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """An association in which the procedure step 1.2 has been created."""
    # Or the free space measured for it holds for the next request, too.
    monkeypatch.setattr(writer, "FREE_SPACE_VALID_SECONDS", 0)
    with Listener(settings) as listener, Client(listener.port) as client:
        client.associate(CONTEXTS)
        assert client.request(STEP, n_create("1.2"), step(b"IN PROGRESS")) == 0
        yield client


@pytest.mark.parametrize(
    ("context", "command", "data_set", "expected"),
    [
        (STEP, n_create("a.b"), step(b"IN PROGRESS"), 0x0117),
        (STEP, n_create("1.3"), step(b"IN PROGRESS")[:-3], 0x0110),
        (STEP, n_create("1.3"), implicit(0x00400252, b"IN PROGRESS "), 0x0120),
        (STEP, n_set("a.b"), step(b"COMPLETED"), 0x0117),
        (STEP, n_set(""), step(b"COMPLETED"), 0x0117),
        (STEP, n_set("1.3"), step(b"COMPLETED"), 0x0112),
        (STEP, n_set("1.2"), step(b"COMPLETED")[:-3], 0x0110),
        (STEP, n_set("1.2"), step(b"DONE"), 0x0106),
        (COMMITMENT, n_action(), REFERENCES, 0x0115),
        (COMMITMENT, n_action(), implicit(0x00081195, b"a.b ") + REFERENCES, 0x0115),
        (COMMITMENT, n_action(), TRANSACTION, 0x0115),
        (COMMITMENT, n_action(), (TRANSACTION + REFERENCES)[:-3], 0x0110),
    ],
)
def test_invalid_request_has_a_status_of_its_service(
    client: Client, context: int, command: bytes, data_set: bytes, expected: int
) -> None:
    assert client.request(context, command, data_set) == expected


@pytest.mark.parametrize(
    ("context", "command", "expected"),
    [
        (STEP, n_create("1.3", 0x0101), 0x0120),
        (STEP, n_set("1.2", 0x0101), 0x0110),
        (COMMITMENT, n_action(0x0101), 0x0115),
    ],
)
def test_request_without_a_data_set_has_a_status_of_its_service(
    client: Client, context: int, command: bytes, expected: int
) -> None:
    answer = client.ask(wire.pdu(wire.P_DATA_TF, wire.pdv(context, wire.COMMAND | wire.LAST, command)))
    assert wire.status(answer) == expected


def test_request_that_the_disk_cannot_store_or_that_is_too_large_is_a_resource_limitation(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = (
        (STEP, n_create("1.3"), step(b"IN PROGRESS")),
        (STEP, n_set("1.2"), step(b"COMPLETED")),
        (COMMITMENT, n_action(), TRANSACTION + REFERENCES),
    )
    with monkeypatch.context() as patch:
        patch.setattr(disk, "RESERVED_BYTES", 2**62)
        assert [client.request(*request) for request in requests] == [0x0213] * 3
    with monkeypatch.context() as patch:
        patch.setattr(StepSetHandler, "max_bytes", 1)
        assert client.request(*requests[1]) == 0x0213
    assert [client.request(*request) for request in requests] == [0, 0, 0]


def test_late_update_in_progress_does_not_reopen_an_ended_step(client: Client, settings: Settings) -> None:
    with Listener(settings) as other, Client(other.port) as late:
        late.associate(CONTEXTS)
        late.send(wire.pdu(wire.P_DATA_TF, wire.pdv(STEP, wire.COMMAND | wire.LAST, n_set("1.2"))))
        late.send(wire.pdu(wire.P_DATA_TF, wire.pdv(STEP, 0, step(b"IN PROGRESS")[:-1])))
        assert client.request(STEP, n_set("1.2"), step(COMPLETED.encode())) == 0
        rest = wire.pdu(wire.P_DATA_TF, wire.pdv(STEP, wire.LAST, step(b"IN PROGRESS")[-1:]))
        assert wire.status(late.ask(rest)) == 0x0110
        assert client.request(STEP, n_set("1.2"), step(b"IN PROGRESS")) == 0x0110
    assert len(stored(settings)) == 2, "the late update is not stored"
