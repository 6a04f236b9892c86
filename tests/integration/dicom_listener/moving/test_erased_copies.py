"""Copies of an erased patient's objects: none is left once the deletion has ended, whoever reads or was killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from db.models import FileDeletion
from db.storage import bucket, object_cache, object_files
from db.storage.errors import Missing, Unavailable
from db.studies.deletion import file_deletions
from tests.integration.dicom_listener.indexing.spool_rows import rows
from tests.integration.dicom_listener.moving.test_mover import delete_study, indexed, local, moved, readable
from tests.object_storage import Begun

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from tests.object_storage import FakeStorage


def copies(settings: Settings) -> list[Path]:
    """Every file of the store and of the cache, but those of users."""
    folders = object_files.STORE, object_cache.CACHE
    found = [path for folder in folders for path in (settings.operations.data_dir / folder).rglob("*")]
    return [path for path in found if path.is_file() and path.suffix != object_cache.USER]


def test_object_deleted_while_it_is_read_leaves_no_copy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = moved(settings)
    real = bucket.Bucket.get

    def slow(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        delete_study(settings)
        assert file_deletions.delete_files(settings) is None

    monkeypatch.setattr(bucket.Bucket, "get", slow)
    with pytest.raises(Missing, match="deleted while it was read"):
        readable(settings, row)

    assert copies(settings) == []


def test_copy_fetched_while_the_storage_deletes_is_deleted(
    settings: Settings, storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = moved(settings)
    real = bucket.Bucket.delete

    def read_again(*arguments: object) -> None:
        assert readable(settings, row)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bucket.Bucket, "delete", read_again)
    delete_study(settings)

    assert file_deletions.delete_files(settings) is None
    assert (storage.keys(), copies(settings)) == ([], [])


def test_parts_and_pins_of_killed_processes_are_deleted_with_their_object(settings: Settings) -> None:
    first, second = indexed(settings, 2)
    # Never closed: its process was killed.
    left = object_files.Files(settings)
    assert left.path(first).exists()
    moved(settings, 0)
    cached = settings.operations.data_dir / object_cache.CACHE / object_files.cache_name(second.file_path)
    for path in (cached, local(settings, second)):
        object_cache.part(path).write_bytes(b"a part of an image")
    assert len(copies(settings)) == 3
    delete_study(settings)

    assert file_deletions.delete_files(settings) is None
    assert copies(settings) == []


@pytest.mark.parametrize("lists_whole_keys_only", [False, True])
def test_parts_of_a_killed_upload_are_deleted_with_their_object(
    settings: Settings, storage: FakeStorage, *, lists_whole_keys_only: bool
) -> None:
    storage.lists_whole_keys_only = lists_whole_keys_only
    (row,) = moved(settings)
    storage.uploads["killed"] = Begun(f"prelim/{object_files.key(row.file_path)}", parts={1: b"a part of an image"})
    storage.uploads["of another object"] = Begun("prelim/ab/other.dcm")
    delete_study(settings)

    assert file_deletions.delete_files(settings) is None
    assert list(storage.uploads) == ["of another object"]


def test_uploads_that_cannot_be_listed_leave_the_deletion_noted(settings: Settings, storage: FakeStorage) -> None:
    moved(settings)
    delete_study(settings)
    storage.lists_uploads = False
    assert isinstance(file_deletions.delete_files(settings), Unavailable)
    assert len(rows(settings, FileDeletion)) == 1  # type: ignore[arg-type]

    storage.lists_uploads = True
    assert file_deletions.delete_files(settings) is None
    assert storage.keys() == []
