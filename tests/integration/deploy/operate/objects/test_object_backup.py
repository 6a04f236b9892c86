"""Backups of an installation with an object storage: objects are copied or listed, and come back."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from rich.console import Console

from db.models import Instance
from db.session import engine, transaction
from db.storage import object_cache, object_files
from db.studies.deletion import file_deletions
from deploy.operate import audit
from deploy.operate.backup import create, restore
from deploy.operate.backup.repository import Repository
from deploy.operate.objects import audited_objects
from dicom_listener.indexing import indexer
from dicom_listener.moving.mover import Mover
from dicom_listener.spool.durable import Spool
from tests.integration.dicom_listener.indexing.spool_rows import rows
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive
from tests.services import database_named, execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings
    from deploy.embedded.postgres import Postgres
    from deploy.operate.backup.copied_files import Files
    from tests.object_storage import FakeStorage


@pytest.fixture
def settings(tmp_path: Path, database_url: str, object_storage: FakeStorage) -> Settings:
    """An installation with a moved object."""
    settings = settings_for(tmp_path / "data", database_url=SecretStr(database_url), **object_storage.settings)
    Spool(settings.spool).prepare()
    receive(settings, image())
    while indexer.run_once(settings) or Mover(settings).run_once():
        pass
    assert len(object_storage.keys()) == 1
    return settings


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backups", bytes(32))


@pytest.fixture
def other(settings: Settings, tmp_path: Path, postgres: Postgres) -> Iterator[Settings]:
    """An installation without anything, to restore into, with the same object storage."""
    execute(postgres, "CREATE DATABASE objects_restored")
    url = database_named(postgres, "objects_restored")
    yield settings.replace(data_dir=tmp_path / "other", database_url=SecretStr(url))
    engine(url).dispose()
    execute(postgres, "DROP DATABASE objects_restored WITH (FORCE)")


def back_up(settings: Settings, repository: Repository) -> Files:
    return create.run(settings, Console(file=io.StringIO()), repository, keep=2)


def restored(settings: Settings, repository: Repository) -> int:
    """The number of violations after a restore."""
    restore.restore(settings, repository, repository.latest())
    return restore.finish(settings, Console(file=io.StringIO()), repository)


def content(settings: Settings) -> bytes:
    (row,) = rows(settings, Instance)
    with object_files.opened(settings) as stored:
        return stored.path(row).read_bytes()


def test_object_that_is_still_there_stays_there(settings: Settings, repository: Repository, other: Settings) -> None:
    assert back_up(settings, repository).count == 1
    # The second time, nothing is read.
    assert back_up(settings, repository).count == 1

    assert restored(other, repository) == 0
    (row,) = rows(other, Instance)
    assert not (other.operations.data_dir / row.file_path).exists()
    assert content(other) == content(settings)


def test_lost_object_returns_to_local_disk_and_is_moved_again(
    settings: Settings, repository: Repository, other: Settings, object_storage: FakeStorage
) -> None:
    back_up(settings, repository)
    (put,) = object_storage.objects.values()
    object_storage.objects.clear()

    assert restored(other, repository) == 0
    Mover(other).run_once()
    assert [found.body for found in object_storage.objects.values()] == [put.body]


def test_object_that_was_cut_since_the_backup_is_restored_to_local_disk(
    settings: Settings, repository: Repository, other: Settings, object_storage: FakeStorage
) -> None:
    back_up(settings, repository)
    (put,) = object_storage.objects.values()
    whole, put.body = put.body, put.body[:-2]

    assert restored(other, repository) == 1
    assert content(other) == whole
    assert [found.rule for found in audit.check(other)] == [audited_objects.DIFFERS]


def test_objects_that_are_newer_than_the_backup_are_indexed_again(
    settings: Settings, repository: Repository, other: Settings, object_storage: FakeStorage
) -> None:
    back_up(settings, repository)
    receive(settings, image())
    while indexer.run_once(settings) or Mover(settings).run_once():
        pass
    before = object_storage.keys()

    assert restored(other, repository) == 0
    while Mover(other).run_once():
        pass
    assert len(rows(other, Instance)) == len(before) == 2
    assert file_deletions.delete_files(other) is None
    assert object_storage.keys() == sorted(object_files.key(row.file_path) for row in rows(other, Instance))
    assert audit.check(other) == []


def test_restore_without_object_storage_has_local_files(
    settings: Settings, repository: Repository, other: Settings, object_storage: FakeStorage
) -> None:
    back_up(settings, repository)
    (put,) = object_storage.objects.values()

    other = other.replace(storage_url=None)
    assert restored(other, repository) == 0
    assert content(other) == put.body


def test_restore_without_object_storage_can_delete_files(
    settings: Settings, repository: Repository, other: Settings
) -> None:
    with transaction(settings.database()) as session:
        file_deletions.note_objects(session, ["spool/store/ab/deleted.dcm"])
    back_up(settings, repository)

    other = other.replace(storage_url=None)
    assert restored(other, repository) == 0
    assert file_deletions.delete_files(other) is None
    with transaction(other.database()) as session:
        assert not file_deletions.noted(session, ["spool/store/ab/deleted.dcm"])


def test_listed_object_is_compared_and_not_copied(
    settings: Settings, repository: Repository, other: Settings, object_storage: FakeStorage, tmp_path: Path
) -> None:
    settings = settings.replace(storage_backup="list")
    assert back_up(settings, repository).count == 0

    verified = restore.verify(settings, Console(file=io.StringIO()), repository, repository.latest(), tmp_path)
    assert verified.violations == 0
    assert restored(other, repository) == 0
    # Deleted with its study since, or lost: it must not prevent the restore of all else.
    object_storage.objects.clear()
    verified = restore.verify(settings, Console(file=io.StringIO()), repository, repository.latest(), tmp_path)
    assert verified.violations == 1
    assert restore._restore_files(other, repository, repository.latest(), None) == 1


def test_backup_without_object_storage_names_what_it_lacks(
    settings: Settings, repository: Repository, object_storage: FakeStorage
) -> None:
    for cached in (settings.operations.data_dir / object_cache.CACHE).glob("*.dcm"):
        cached.unlink()
    object_storage.away = True

    (sentence,) = back_up(settings, repository).absent.sentences()
    assert "does not answer" in sentence
