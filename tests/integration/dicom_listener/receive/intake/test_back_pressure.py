"""A disk or a backlog near its limit: routine objects are refused for a time, urgent ones arrive, and it ends."""

from __future__ import annotations

import json
import struct
import uuid
from typing import TYPE_CHECKING

import pytest

from db.operations import disk
from db.operations.disk import RESERVED_BYTES, Disk
from dicom_listener.receive.intake import marks, quotas
from dicom_listener.receive.listener import Listener
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.fuzz.wire import ASSOCIATE_RJ, Client, associate_rq, ct_slice, echoes
from tests.integration.dicom_listener.listening import settings_for, slot_of_listener, stored
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

ROUTINE, HIGH = 0, 1
REFUSED = 0xA700


class FullDisk:
    """Disk of which *percent* are used; the tests change it."""

    percent = 91.0

    def measure(self, _: Path) -> Disk:
        return Disk(100 * RESERVED_BYTES, None, self.percent)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    found = FullDisk()
    monkeypatch.setattr(disk, "measure", found.measure)
    monkeypatch.setattr(marks, "MEASURE_SECONDS", 0.02)
    monkeypatch.setattr(marks, "COUNT_SECONDS", 0)
    return found


def store(client: Client, priority: int = ROUTINE, pixels: int = 64, **values: str) -> tuple[str, int]:
    uid = f"2.25.{uuid.uuid4().int}"
    return uid, client.store(uid, ct_slice(uid, pixels=pixels, **values), priority=priority)


def test_urgent_objects_arrive_at_91_percent_and_routine_ones_after_it(tmp_path: Path, full: FullDisk) -> None:
    settings = settings_for(tmp_path, priority_rules="ER=STAT,RESEARCH=LOW")
    with Listener(settings) as listener, Client(listener.port) as client, Client(listener.port) as er:
        client.associate()
        er.associate(calling=b"ER")
        for pixels in (64, 100_000):
            assert store(client, pixels=pixels)[1] == store(client, requested_priority="LOW ")[1] == REFUSED
        stat = [store(client, HIGH), store(client, requested_priority="STAT", pixels=100_000), store(er)]
        assert {status for _, status in stat} == {0}
        with Client(listener.port) as research:
            kind, content = research.ask(associate_rq(calling=b"RESEARCH"))
            assert (kind, struct.unpack(">xBBB", content)) == (ASSOCIATE_RJ, (2, 3, 1)), "transient, congestion"
        assert echoes(listener.port)
        full.percent = 88.5
        assert store(client)[1] == REFUSED, "it ends clearly below the mark"
        full.percent = 87.5
        wait_until(lambda: store(client)[1] == 0)
        assert {uid for uid, _ in stat} <= {meta.sop_instance_uid for meta, _ in stored(settings)}


def test_backlog_refuses_routine_objects_until_it_is_indexed(tmp_path: Path, full: FullDisk) -> None:
    full.percent = 10
    settings = settings_for(tmp_path, urgent_only_backlog=5)
    with Listener(settings) as listener, Client(listener.port) as client:
        client.associate()
        wait_until(lambda: store(client)[1] == REFUSED)
        assert store(client, HIGH)[1] == 0
        wait_until(
            lambda: json.loads(slot_of_listener(settings).status.read_text())["intake"]["level"] == "only_urgent"
        )
        for path in list(received(Spool(settings.spool))):
            path.unlink()
        wait_until(lambda: store(client)[1] == 0)


def test_quota_of_an_ae_title_refuses_for_the_rest_of_the_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "MINUTE", 10**9)
    (tmp_path / "peers.toml").write_text(
        '[[peer]]\nae_title = "CT_1"\nobjects_per_minute = 2\n[[peer]]\nae_title="CT_2"'
    )
    settings = settings_for(tmp_path, peers_file=tmp_path / "peers.toml")
    with Listener(settings) as listener, Client(listener.port) as client, Client(listener.port) as other:
        client.associate(calling=b"CT_1")
        other.associate(calling=b"CT_2")
        assert [store(client)[1] for _ in range(3)] == [0, 0, REFUSED]
        assert [store(other)[1] for _ in range(3)] == [0, 0, 0]
        monkeypatch.setattr(quotas, "MINUTE", 1e-9)
        assert store(client)[1] == 0
