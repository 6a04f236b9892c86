"""A damaged file of the spool that is no object stops nothing but what it is for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from db.jobs.celery_app import make_app
from db.models import Process, Study
from db.operations import heartbeats
from db.session import transaction
from deploy.operate import audit
from dicom_listener import dispatch
from dicom_listener.receive import status_file
from dicom_listener.spool import slots, waiting
from dicom_listener.spool.associations import AssociationMarks, SpoolMarks, Transfer
from dicom_listener.spool.commitment_outbox import CommitmentOutbox
from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.fixture
def unlisted(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An inbox that cannot be listed, until the context ends."""
    scandir, damaged = os.scandir, Spool(settings.spool).slot("host-0").inbox

    def list_or_fail(folder: Any = ".") -> Any:
        if folder == damaged:
            raise OSError(5, "Input/output error")
        return scandir(folder)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", list_or_fail)
        yield patch


def settle_and_index(settings: Settings, **limits: float) -> list[str]:
    """Run some passes with these limits of settling; returns the states of the studies."""
    now = settings.model_copy(update={"study": settings.study.model_copy(update={"settle_seconds": 0, **limits})})
    for _ in range(2):
        dispatch.settle_and_index(now, waiting.WaitingFiles(Spool(settings.spool)))
    with transaction(settings.database()) as session:
        return list(session.scalars(select(Study.state).order_by(Study.state)))


def test_inbox_that_cannot_be_listed_stops_settling_and_not_the_indexing_of_the_others(
    settings: Settings, unlisted: pytest.MonkeyPatch
) -> None:
    receive(settings, image())
    receive(settings, image(NumberOfStudyRelatedInstances=2))
    assert settle_and_index(settings) == ["receiving", "receiving"]
    unlisted.undo()

    assert settle_and_index(settings) == ["settled", "settled"]


@pytest.mark.usefixtures("unlisted")
def test_study_with_all_its_objects_settles_beside_an_inbox_that_cannot_be_listed(settings: Settings) -> None:
    receive(settings, image(NumberOfStudyRelatedInstances=1))
    receive(settings, image())
    assert settle_and_index(settings) == ["receiving", "settled"]

    assert settle_and_index(settings, settle_cap_seconds=0) == ["settled", "settled"], "twice the cap is past"


@pytest.mark.usefixtures("unlisted")
def test_audit_names_an_inbox_that_cannot_be_listed(settings: Settings) -> None:
    spool = Spool(settings.spool)
    os.link(receive(settings, image()), spool.store / "00" / "lost.dcm")

    found = [(violation.rule, violation.subject) for violation in audit.check(settings)]
    assert found == [(audit.UNREADABLE, f"{spool.slot('host-0').inbox} (Input/output error)")]


def test_marks_that_cannot_be_listed_do_not_stop_the_dispatcher(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot, iterdir = Spool(settings.spool).slot("host-0"), Path.iterdir

    def list_or_fail(folder: Path) -> Any:
        if folder in {slot.associations, slot.broken_transfers}:
            raise OSError(5, "Input/output error")
        return iterdir(folder)

    receive(settings, image())
    monkeypatch.setattr(Path, "iterdir", list_or_fail)
    assert settle_and_index(settings) == ["settled"]
