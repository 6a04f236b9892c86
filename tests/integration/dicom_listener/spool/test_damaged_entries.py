"""A damaged file of the spool that is no object stops nothing but what it is for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from db.jobs.celery_app import make_app
from db.models import Instance, Process, Study
from db.operations import heartbeats
from db.session import transaction
from dicom_listener import dispatch
from dicom_listener.receive import status_file
from dicom_listener.spool import slots, waiting
from dicom_listener.spool.associations import AssociationMarks, SpoolMarks, Transfer
from dicom_listener.spool.commitment_outbox import CommitmentOutbox
from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


def make_damaged(path: Path, kind: str) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"\xff\xfe\0")


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    settings = settings_for(tmp_path, database_url=SecretStr(database_url))
    spool = Spool(settings.spool)
    spool.prepare()
    spool.slot("host-0").root.mkdir()
    spool.slot("host-0").prepare()
    return settings


@pytest.mark.parametrize("kind", ["folder", "loop", "pipe", "bytes"])
def test_damaged_entry_stops_nothing_but_what_it_is_for(settings: Settings, kind: str) -> None:
    spool = Spool(settings.spool)
    slot = spool.slot("host-0")
    AssociationMarks(slot).write(Transfer("sound", "2.25.1"))
    for folder in (slot.associations, slot.broken_transfers, slot.commitments):
        make_damaged(folder / "odd", kind)
    make_damaged(slot.status, kind)
    make_damaged(slot.inbox / "odd.part", kind)
    receive(settings, image())

    assert [transfer.association_id for transfer in SpoolMarks(spool).open()] == ["sound"]
    assert status_file.read(slot.status) is None
    assert CommitmentOutbox(slot.commitments).state("odd") is None
    slots.own(spool, "host").release()
    assert dispatch.settle_and_index(settings, waiting.WaitingFiles(spool)) == 1
    dispatch._write_heartbeat(settings, make_app("redis://127.0.0.1:1"), None)
    with transaction(settings.database()) as session:
        assert session.scalars(select(Process.role)).all() == ["dispatcher"]


def test_status_with_values_of_wrong_types_does_not_stop_the_heartbeat(settings: Settings) -> None:
    spool = Spool(settings.spool)
    sound, damaged = spool.slot("host-0").status, spool.unowned.status
    status_file.write(sound, {"process": "host:1", "open": 1})
    damaged.write_text('{"process": "host:2", "refused": [["CT\\u0000", "a cause", 1]]}')

    dispatch._write_heartbeat(settings, make_app("redis://127.0.0.1:1"), None)

    with transaction(settings.database()) as session:
        assert set(session.scalars(select(Process.name))) == {"host:1", heartbeats.name()}


def test_inbox_that_cannot_be_listed_stops_settling_and_not_the_indexing_of_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool, scandir = Spool(settings.spool), os.scandir
    damaged = spool.slot("host-0").inbox

    def list_or_fail(folder: Any) -> Any:
        if folder == damaged:
            raise OSError(5, "Input/output error")
        return scandir(folder)

    receive(settings, image())
    now = settings.model_copy(update={"study": settings.study.model_copy(update={"settle_seconds": 0})})
    with monkeypatch.context() as patch:
        patch.setattr(waiting.os, "scandir", list_or_fail)
        for _ in range(2):
            dispatch.settle_and_index(now, waiting.WaitingFiles(spool))
        with transaction(settings.database()) as session:
            assert len(session.scalars(select(Instance)).all()) == 1
            assert session.scalars(select(Study.state)).all() == ["receiving"]
    dispatch.settle_and_index(now, waiting.WaitingFiles(spool))

    with transaction(settings.database()) as session:
        assert session.scalars(select(Study.state)).all() == ["settled"]
