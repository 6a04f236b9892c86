"""Objects whose rows a failover has lost, and which have no local copy: they are brought back and indexed again."""

from __future__ import annotations

import datetime as dt
import threading
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy import delete

from db.models import FileDeletion, Instance
from db.session import transaction
from db.storage import object_files
from db.studies.deletion import file_deletions
from deploy.operate import audit
from deploy.operate.objects import audited_objects
from dicom_listener.indexing import indexer
from dicom_listener.recovery import lost_objects, row_recovery
from dicom_listener.recovery.row_recovery import RowRecovery
from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.indexing.spool_rows import rows
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.moving.test_mover import indexed, local, moved
from tests.integration.dicom_listener.objects import image, store
from tests.integration.dicom_listener.recovery.test_lost_rows import lose_rows, note_other_timeline, waiting
from tests.object_storage import Put

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from tests.object_storage import FakeStorage


@pytest.fixture
def storage(object_storage: FakeStorage) -> FakeStorage:
    return object_storage


@pytest.fixture
def settings(tmp_path: Path, database_url: str, storage: FakeStorage) -> Settings:
    """An installation that moves its files to the fake storage."""
    settings = settings_for(tmp_path, database_url=SecretStr(database_url), **storage.settings)
    Spool(settings.spool).prepare()
    return settings


@pytest.fixture
def recovery(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> RowRecovery:
    """Recovery that has noted the timeline of the database."""
    monkeypatch.setattr(row_recovery, "CHECK_SECONDS", 0)
    monkeypatch.setattr(row_recovery, "STORAGE_SECONDS", 0)
    made = RowRecovery(settings, threading.Event())
    made.run_once()
    return made


def arrived(settings: Settings, number: int = 1) -> list[str]:
    """Paths of objects that have arrived under the names that the listener gives, and were moved."""
    for _ in range(number):
        store(settings, image())
    return sorted(row.file_path for row in moved(settings, 0))


def fail_over(settings: Settings) -> None:
    """Lose all rows, and continue on another timeline."""
    lose_rows(settings)
    note_other_timeline(settings)


def recover(settings: Settings, recovery: RowRecovery) -> None:
    """Let the recovery and the indexer run to their end."""
    for _ in range(3):
        recovery.run_once()
        while indexer.run_once(settings):
            pass


def test_moved_files_whose_rows_were_lost_are_indexed_again(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery
) -> None:
    before = arrived(settings, 3)
    keys = storage.keys()
    fail_over(settings)
    recover(settings, recovery)

    assert arrived(settings, 0) == before
    assert storage.keys() == keys
    assert audit.check(settings) == []
    storage.requests.clear()
    recovery.run_once()
    assert storage.requests == [], "the timeline is noted"


def test_file_of_an_earlier_release_gets_an_object_at_its_new_place(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery
) -> None:
    # Stored under its own name, not that of its study: it is stored elsewhere when it is indexed again.
    (before,) = moved(settings)
    fail_over(settings)
    recover(settings, recovery)
    (row,) = moved(settings, 0)

    assert row.file_path != before.file_path
    assert [found.rule for found in audit.check(settings)] == []
    assert file_deletions.delete_files(settings) is None
    assert storage.keys() == [object_files.key(row.file_path)]


def test_row_that_a_second_failover_loses_is_indexed_again_too(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery
) -> None:
    before = arrived(settings, 2)
    keys = storage.keys()
    for _ in range(2):
        fail_over(settings)
        recover(settings, recovery)
        assert arrived(settings, 0) == before

    assert rows(settings, FileDeletion) == []  # type: ignore[arg-type]
    assert storage.keys() == keys


def test_storage_that_is_away_is_searched_when_it_is_back(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery
) -> None:
    moved(settings)
    storage.away = True
    indexed(settings)
    fail_over(settings)
    recover(settings, recovery)
    assert len(rows(settings, Instance)) == 1, "local files do not wait for it"

    storage.away = False
    recover(settings, recovery)
    assert len(rows(settings, Instance)) == 2


@pytest.mark.parametrize("part", [1, 2, 5])
def test_objects_are_searched_in_parts(
    settings: Settings, recovery: RowRecovery, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    monkeypatch.setattr(lost_objects, "PART", part)
    before = arrived(settings, 4)
    fail_over(settings)
    for _ in range(4):
        recover(settings, recovery)

    assert arrived(settings, 0) == before
    assert not Spool(settings.spool).objects_searched.exists()


def test_search_of_objects_continues_after_a_kill(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_objects, "PART", 2)
    first, _, _, last = arrived(settings, 4)
    note_other_timeline(settings)
    real = lost_objects.ObjectSearch.complete

    def complete(search: lost_objects.ObjectSearch) -> bool:
        real(search)
        raise RuntimeError("killed after the first part")

    with monkeypatch.context() as patched:
        patched.setattr(lost_objects.ObjectSearch, "complete", complete)
        with pytest.raises(RuntimeError):
            recovery.run_once()
    with transaction(settings.database()) as session:
        session.execute(delete(Instance).where(Instance.file_path.in_([first, last])))
    recover(settings, RowRecovery(settings, threading.Event()))

    assert [row.file_path for row in rows(settings, Instance) if row.file_path in (first, last)] == [last]
    assert len(storage.keys()) == 4
    assert not Spool(settings.spool).objects_searched.exists()


@pytest.mark.parametrize("content", ["", '["1", "2", "3", "4", "5", "6", "zz"]', "7", "[]"])
def test_damaged_or_other_position_is_no_reason_to_miss_an_object(
    settings: Settings, recovery: RowRecovery, content: str
) -> None:
    before = arrived(settings, 2)
    Spool(settings.spool).objects_searched.write_text(content)
    fail_over(settings)
    recover(settings, recovery)

    assert arrived(settings, 0) == before


def test_object_of_long_before_the_failover_is_left_to_the_audit(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery
) -> None:
    moved(settings)
    for put in storage.objects.values():
        put.modified = (dt.datetime.now(dt.UTC) - dt.timedelta(days=2)).isoformat()
    fail_over(settings)
    recover(settings, recovery)

    assert rows(settings, Instance) == []
    assert [found.rule for found in audit.check(settings)] == [audited_objects.NO_ROW]


def test_damaged_object_delays_no_other(settings: Settings, storage: FakeStorage, recovery: RowRecovery) -> None:
    first, second = arrived(settings, 2)
    put = storage.objects[f"prelim/{object_files.key(first)}"]
    put.body = put.body[:-1] + b"!"
    fail_over(settings)
    recover(settings, recovery)

    assert [row.file_path for row in rows(settings, Instance)] == [second]


def test_object_whose_file_was_sent_again_is_deleted_whichever_dispatcher_ends_first(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery
) -> None:
    sent = image()
    store(settings, sent)
    (before,) = moved(settings, 0)
    lose_rows(settings)
    store(settings, sent)
    indexer.run_once(settings)
    note_other_timeline(settings)
    second = RowRecovery(settings, threading.Event())
    # Both bring it back; one returns it, and it is dropped as a duplicate before the other one looks again.
    recovery.run_once()
    second.run_once()
    recovery.run_once()
    indexer.run_once(settings)
    for _ in range(3):
        second.run_once()

    assert [row.file_path for row in rows(settings, FileDeletion)] == [before.file_path]  # type: ignore[arg-type]
    assert file_deletions.delete_files(settings) is None
    (row,) = moved(settings, 0)
    assert storage.keys() == [object_files.key(row.file_path)]


def test_noted_deletion_of_an_object_holds_after_a_failover(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery
) -> None:
    (row,) = moved(settings)
    with transaction(settings.database()) as session:
        file_deletions.note(session, [row.file_path])
    fail_over(settings)
    recover(settings, recovery)

    assert rows(settings, Instance) == []
    assert len(rows(settings, FileDeletion)) == 1  # type: ignore[arg-type]
    assert file_deletions.delete_files(settings) is None
    assert storage.keys() == []


@pytest.mark.parametrize("key", ["ab/../../../out.dcm", "../x.dcm", "doctor/one", "ab/part"])
def test_object_whose_key_is_not_of_a_stored_file_is_not_written_anywhere(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery, key: str
) -> None:
    storage.objects[f"prelim/{key}"] = Put(b"of another program", {"x-amz-meta-sha256": "0"})
    note_other_timeline(settings)
    recover(settings, recovery)

    assert waiting(settings) == 0
    assert not audited_objects.repair_unknown(settings, object_files.file_path(key))
    with pytest.raises(ValueError, match="not that of a stored file"):
        lost_objects.bring_back(settings, object_files.file_path(key))


def test_object_brought_back_by_the_audit_is_indexed(
    settings: Settings, storage: FakeStorage, recovery: RowRecovery
) -> None:
    (row,) = moved(settings)
    lose_rows(settings)
    assert audited_objects.repair_unknown(settings, row.file_path)
    assert local(settings, row).exists()
    indexer.run_once(settings)
    recovery.run_once()

    assert [found.file_path for found in moved(settings, 0)] == [row.file_path]
    assert len(storage.keys()) == 1
