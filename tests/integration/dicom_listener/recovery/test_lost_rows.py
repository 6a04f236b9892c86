"""Stored files whose rows a database has lost: returned to the inbox after a failover, and only then."""

from __future__ import annotations

import json
import os
import threading
import time
import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from db.errors import ConfigurationError
from db.models import FileDeletion, Instance, Quarantined
from db.reports import image_files
from db.session import transaction
from db.settings import Settings
from deploy.operate import audit
from dicom_listener.indexing import indexer
from dicom_listener.recovery import noted_timeline, row_recovery
from dicom_listener.recovery.row_recovery import RowRecovery
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.integration.dicom_listener.indexing.spool_rows import rows
from tests.integration.dicom_listener.objects import image, receive

if TYPE_CHECKING:
    from pathlib import Path

    from tests.object_storage import FakeStorage

TABLES = "jobs, instances, quarantine, studies"


@pytest.fixture
def recovery(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> RowRecovery:
    """Recovery that has noted the timeline of the database."""
    monkeypatch.setattr(row_recovery, "CHECK_SECONDS", 0)
    made = RowRecovery(settings, threading.Event())
    made.run_once()
    return made


@pytest.fixture
def stored(settings: Settings) -> list[Path]:
    """The files of two instances and of one in quarantine."""
    first = image()
    for dataset in (first, image(), image(SOPInstanceUID=first.SOPInstanceUID, PatientID="P-2")):
        receive(settings, dataset)
    indexer.run_once(settings)
    return [
        settings.operations.data_dir / row.file_path
        for table in (Instance, Quarantined)
        for row in rows(settings, table)
    ]


def lose_rows(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        session.execute(text(f"TRUNCATE {TABLES} CASCADE"))


def note_other_timeline(settings: Settings, **changes: str) -> None:
    """Let the spool have an earlier timeline of the same cluster, or with *changes* of another one."""
    with transaction(settings.database()) as session:
        current = noted_timeline.current_timeline(session)
    other = current._replace(**({"number": "000000FF"} | changes))
    noted_timeline.note(Spool(settings.spool).timeline, other)


def waiting(settings: Settings) -> int:
    return len(list(received(Spool(settings.spool))))


def test_files_whose_rows_a_failover_lost_are_indexed_again(
    settings: Settings, stored: list[Path], recovery: RowRecovery
) -> None:
    assert len(stored) == 3
    lose_rows(settings)
    recovery.run_once()
    assert waiting(settings) == 0, "the timeline is the same"

    note_other_timeline(settings)
    recovery.run_once()
    assert waiting(settings) == 3
    while indexer.run_once(settings):
        pass
    recovery.run_once()

    assert (len(rows(settings, Instance)), len(rows(settings, Quarantined))) == (2, 1)
    assert audit.check(settings) == []
    lose_rows(settings)
    recovery.run_once()
    assert waiting(settings) == 0, "the timeline is noted"


def test_file_that_leaves_the_inbox_after_its_row_was_lost_is_returned(
    settings: Settings, stored: list[Path], recovery: RowRecovery
) -> None:
    lose_rows(settings)
    # Another dispatcher, frozen between its commit and the removal of the file from the inbox.
    left = Spool(settings.spool).inbox / stored[0].name
    os.link(stored[0], left)
    note_other_timeline(settings)
    recovery.run_once()
    assert waiting(settings) == 3
    left.unlink()
    recovery.run_once()

    assert waiting(settings) == 3
    while indexer.run_once(settings):
        pass
    recovery.run_once()
    assert audit.check(settings) == []


def test_rows_that_exist_and_noted_deletions_keep_their_files_where_they_are(
    settings: Settings, stored: list[Path], recovery: RowRecovery
) -> None:
    with transaction(settings.database()) as session:
        session.execute(text("INSERT INTO file_deletions SELECT file_path FROM quarantine"))
        session.execute(text("DELETE FROM quarantine"))
    note_other_timeline(settings)
    recovery.run_once()

    assert waiting(settings) == 0
    assert all(path.exists() for path in stored)


@pytest.mark.usefixtures("stored")
def test_database_that_names_none_of_the_files_ends_the_dispatcher(settings: Settings, recovery: RowRecovery) -> None:
    lose_rows(settings)
    note_other_timeline(settings, system="1")
    receive(settings, image())
    indexer.run_once(settings)
    recovery.run_once()

    assert waiting(settings) == 0
    with pytest.raises(ConfigurationError, match="names none of the stored files"):
        recovery.require_database()
    noted = noted_timeline.noted(Spool(settings.spool).timeline)
    assert noted is not None
    assert noted.system == "1", "the next start refuses it, too"


def test_restored_database_is_accepted_although_it_lacks_later_files(
    settings: Settings, stored: list[Path], recovery: RowRecovery
) -> None:
    with transaction(settings.database()) as session:
        session.execute(text("DELETE FROM quarantine"))
        session.execute(text("DELETE FROM instances WHERE id = (SELECT id FROM instances LIMIT 1)"))
    note_other_timeline(settings, system="1")
    recovery.run_once()

    recovery.require_database()
    assert waiting(settings) == 0
    assert all(path.exists() for path in stored)
    noted = noted_timeline.noted(Spool(settings.spool).timeline)
    assert noted is not None
    assert noted.system != "1"


@pytest.mark.usefixtures("stored")
def test_note_that_is_lost_or_damaged_meanwhile_is_written_again(settings: Settings, recovery: RowRecovery) -> None:
    note = Spool(settings.spool).timeline
    recovery.run_once()
    content = note.read_bytes()
    for damage in (note.unlink, lambda: note.write_bytes(b"")):
        damage()
        recovery.run_once()
        assert note.read_bytes() == content


@pytest.mark.usefixtures("stored")
def test_note_that_is_lost_while_the_database_is_replaced_refuses_that_one(
    settings: Settings, recovery: RowRecovery
) -> None:
    note = Spool(settings.spool).timeline
    recovery.run_once()
    note_other_timeline(settings, database="1")
    replaced = noted_timeline.noted(note)
    assert replaced is not None
    recovery._last = replaced, time.time()
    note.unlink()
    lose_rows(settings)
    receive(settings, image())
    indexer.run_once(settings)
    recovery.run_once()

    with pytest.raises(ConfigurationError, match="names none of the stored files"):
        recovery.require_database()


def test_missing_note_beside_files_without_rows_ends_the_dispatcher(
    settings: Settings, stored: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_recovery, "CHECK_SECONDS", 0)
    lose_rows(settings)
    stop = threading.Event()
    begun = RowRecovery(settings, stop)
    # Files that arrive now get rows in the wrong database, too.
    receive(settings, image())
    indexer.run_once(settings)
    begun.run_once()

    assert stop.is_set()
    assert not Spool(settings.spool).timeline.exists()
    assert all(path.exists() for path in stored)
    with pytest.raises(ConfigurationError, match="names none of the stored files"):
        begun.require_database()


def test_rows_without_any_file_end_a_dispatcher_without_a_note(settings: Settings, stored: list[Path]) -> None:
    """Started while the database was away, and the data directory is not mounted."""
    for path in stored:
        path.unlink()
    stop = threading.Event()
    begun = RowRecovery(settings, stop)
    begun.run_once()

    assert stop.is_set()
    with pytest.raises(ConfigurationError, match="names files, but none are stored"):
        begun.require_database()


def test_missing_note_of_the_right_database_is_written(settings: Settings, stored: list[Path]) -> None:
    stop = threading.Event()
    stop.wait = lambda *_: False  # type: ignore[method-assign]
    begun = RowRecovery(settings, stop)
    begun.run_once()

    begun.require_database()
    assert noted_timeline.noted(Spool(settings.spool).timeline) is not None
    assert all(path.exists() for path in stored)


def test_damaged_note_ends_a_dispatcher_that_has_not_seen_it_before(settings: Settings) -> None:
    Spool(settings.spool).timeline.write_bytes(b"")
    stop = threading.Event()
    begun = RowRecovery(settings, stop)
    begun.run_once()

    assert stop.is_set()
    with pytest.raises(ConfigurationError, match="is damaged"):
        begun.require_database()


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("number", ["", "000000FF"])
def test_note_of_an_earlier_release_gets_its_database_and_keeps_its_timeline(
    settings: Settings, recovery: RowRecovery, number: str
) -> None:
    note = Spool(settings.spool).timeline
    system, current, _ = noted_timeline.noted(note) or ("", "", "")
    with transaction(settings.database()) as session:
        session.execute(text("DELETE FROM quarantine"))
    note.write_text(json.dumps([system, number or current]))
    note.with_name("timeline_database.json").unlink()
    recovery.run_once()
    upgraded = noted_timeline.noted(note)
    recovery.run_once()

    assert upgraded is not None
    assert (upgraded.number, bool(upgraded.database)) == (number or current, True)
    assert waiting(settings) == (1 if number else 0), "a failover since then is seen"


@pytest.mark.parametrize(("age", "kept"), [(0, False), (2 * row_recovery.LOST_WITHIN_SECONDS, True)])
def test_images_of_reports_lost_with_their_jobs_are_deleted(
    settings: Settings, recovery: RowRecovery, age: float, kept: bool
) -> None:
    data_dir = settings.operations.data_dir
    [path] = image_files.write(data_dir, uuid.uuid4(), uuid.uuid4(), [b"png"])
    os.utime(data_dir / path, (time.time() - age,) * 2)
    recovery.run_once()
    assert (data_dir / path).exists(), "the timeline is the same"
    note_other_timeline(settings)
    recovery.run_once()

    assert (data_dir / path).exists() is kept


@pytest.mark.usefixtures("recovery")
def test_object_of_a_returned_file_that_was_sent_again_meanwhile_is_deleted(
    settings: Settings, object_storage: FakeStorage
) -> None:
    storage = Settings(**object_storage.settings).storage
    recovery = RowRecovery(settings.model_copy(update={"storage": storage}), threading.Event())
    dataset = image()
    receive(settings, dataset)
    indexer.run_once(settings)
    [first] = rows(settings, Instance)
    lose_rows(settings)
    receive(settings, dataset)
    indexer.run_once(settings)
    note_other_timeline(settings)
    recovery.run_once()
    indexer.run_once(settings)
    recovery.run_once()

    [noted] = rows(settings, FileDeletion)
    assert (noted.file_path, noted.in_storage) == (first.file_path, True)
