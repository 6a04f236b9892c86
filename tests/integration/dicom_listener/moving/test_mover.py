"""Indexed files move to the object storage: whatever it does, no object is lost, and nothing else waits for it."""

from __future__ import annotations

import datetime as dt
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from db.models import FileDeletion, Instance
from db.session import transaction
from db.storage import bucket, moves, object_cache, object_files
from db.storage.errors import Damaged, Unavailable
from db.studies.deletion import file_deletions, retention
from deploy.operate import audit
from deploy.operate.objects import audited_objects
from dicom_listener.commitment import verify
from dicom_listener.indexing import indexer
from dicom_listener.moving import mover
from dicom_listener.moving.mover import Mover
from tests.integration.dicom_listener.indexing.spool_rows import rows
from tests.integration.dicom_listener.objects import image, receive
from tests.integration.dicom_listener.recovery.test_lost_rows import lose_rows
from tests.object_storage import Begun, Put

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from tests.object_storage import FakeStorage


def indexed(settings: Settings, number: int = 1) -> list[Instance]:
    """Rows of objects that have arrived."""
    for _ in range(number):
        receive(settings, image())
    while indexer.run_once(settings):
        pass
    found: list[Instance] = rows(settings, Instance)
    return found


def moved(settings: Settings, number: int = 1) -> list[Instance]:
    """Rows of objects that have arrived, and were moved."""
    indexed(settings, number)
    mover = Mover(settings)
    while mover.run_once():
        pass
    found: list[Instance] = rows(settings, Instance)
    return found


def local(settings: Settings, row: Instance) -> Path:
    return settings.operations.data_dir / row.file_path


def readable(settings: Settings, row: Instance) -> bytes:
    with object_files.opened(settings) as stored:
        return stored.path(row).read_bytes()


def test_file_is_moved_and_read_from_there(settings: Settings, storage: FakeStorage) -> None:
    (before,) = indexed(settings)
    content = local(settings, before).read_bytes()

    (row,) = moved(settings, 0)

    assert not local(settings, row).exists()
    assert storage.keys() == [object_files.key(row.file_path)]
    assert row.storage_due_at is None
    assert readable(settings, row) == content
    # The second time, it is in the cache.
    storage.away = True
    assert readable(settings, row) == content
    assert audit_rules(settings, storage) == []


def audit_rules(settings: Settings, storage: FakeStorage) -> list[str]:
    storage.away = False
    return [violation.rule for violation in audit.check(settings)]


def test_local_copy_stays_for_its_time(settings: Settings, storage: FakeStorage) -> None:
    settings = settings.replace(storage_keep_local_hours=2)
    (row,) = moved(settings)

    assert local(settings, row).exists()
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET storage_due_at = now() + interval '30 minutes'"))
    (row,) = rows(settings, Instance)
    with object_files.opened(settings) as stored:
        # Pinned: it may be deleted while it is read.
        path = stored.path(row)
        local(settings, row).unlink()
        assert path.read_bytes() == storage.objects[f"prelim/{object_files.key(row.file_path)}"].body


def test_file_moved_while_it_is_read_stays_readable(settings: Settings) -> None:
    first, second = indexed(settings, 2)
    with object_files.opened(settings) as stored:
        path = stored.path(first)
        moved(settings, 0)
        assert not local(settings, first).exists()
        assert path.read_bytes()
        # Its row is older than the move: a reader waits, and does not take the image for lost.
        with pytest.raises(Unavailable, match="moved since"):
            stored.path(second)
    assert not path.exists()


def test_row_that_a_failover_lost_while_its_object_was_put_is_no_deleted_one(
    settings: Settings, storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standby that was promoted lacks it: its image must stay, until it is indexed again."""
    (row,) = indexed(settings)
    timeline = ["before"]
    monkeypatch.setattr(mover, "current_timeline", lambda _: timeline[-1])
    real = bucket.Bucket.put

    def put(*arguments: Any) -> bool:
        is_new = real(*arguments)
        lose_rows(settings)
        timeline.append("after")
        return is_new

    monkeypatch.setattr(bucket.Bucket, "put", put)
    Mover(settings).run_once()

    assert rows(settings, FileDeletion) == []  # type: ignore[arg-type]
    assert local(settings, row).exists()
    assert len(storage.keys()) == 1


def test_lost_file_is_no_reason_to_wait(settings: Settings) -> None:
    (row,) = indexed(settings)
    local(settings, row).unlink()
    Mover(settings).run_once()

    (row,) = rows(settings, Instance)
    with object_files.opened(settings) as stored:
        assert not stored.path(row).exists()


def test_outage_costs_nothing_and_moving_resumes(settings: Settings, storage: FakeStorage) -> None:
    storage.away = True
    indexed(settings, 3)
    mover = Mover(settings)
    with pytest.raises(Unavailable, match="does not answer"):
        mover.run_once()
    (first, *_) = rows(settings, Instance)
    assert readable(settings, first)

    storage.away, storage.failing = False, 503
    with pytest.raises(Unavailable, match="503"):
        mover.run_once()
    with transaction(settings.database()) as session:
        assert moves.waiting(session).files == 3

    storage.failing = None
    assert mover.run_once()
    assert len(storage.keys()) == 3
    assert all(row.object_sha256 for row in rows(settings, Instance))


@pytest.mark.parametrize("status", [404, 409, 412])
def test_other_answer_to_a_put_moves_nothing(settings: Settings, storage: FakeStorage, status: int) -> None:
    indexed(settings)
    storage.failing = status
    with pytest.raises(Unavailable):
        Mover(settings).run_once()

    (row,) = rows(settings, Instance)
    assert row.object_sha256 is None
    assert local(settings, row).exists()


@pytest.mark.parametrize("status", [404, 409, 412])
def test_other_answer_to_a_deletion_deletes_nothing(settings: Settings, storage: FakeStorage, status: int) -> None:
    moved(settings)
    delete_study(settings)
    storage.failing = status

    assert isinstance(file_deletions.delete_files(settings), Unavailable)
    assert len(rows(settings, FileDeletion)) == 1  # type: ignore[arg-type]


def test_lost_answer_after_a_put_is_compared(settings: Settings, storage: FakeStorage) -> None:
    mover = Mover(settings)
    mover.sweep()
    indexed(settings)
    # On the connection that the sweep has left, and on a new one.
    storage.lost_answers = 2
    with pytest.raises(Unavailable, match="does not answer"):
        mover._move()
    (row,) = moved(settings, 0)

    assert row.object_sha256
    assert [method for method, _ in storage.requests].count("PUT") == 3
    assert not local(settings, row).exists()


def test_differing_object_is_never_overwritten(settings: Settings, storage: FakeStorage) -> None:
    (row,) = indexed(settings)
    key = f"prelim/{object_files.key(row.file_path)}"
    storage.objects[key] = Put(b"of another program")

    Mover(settings).run_once()

    (row,) = rows(settings, Instance)
    assert storage.objects[key].body == b"of another program"
    assert row.object_sha256 is None
    assert local(settings, row).exists()
    with transaction(settings.database()) as session:
        # It delays no other file, and is counted.
        assert moves.waiting(session)[::2] == (0, 1)


def test_damaged_file_is_not_moved(settings: Settings, storage: FakeStorage) -> None:
    (row,) = indexed(settings)
    content = bytearray(local(settings, row).read_bytes())
    content[-1] ^= 1
    local(settings, row).write_bytes(content)

    Mover(settings).run_once()

    assert storage.keys() == []
    assert audit_rules(settings, storage) == [audit.OTHER_DIGEST]


def test_local_copy_is_kept_if_its_object_is_lost(settings: Settings, storage: FakeStorage) -> None:
    settings = settings.replace(storage_keep_local_hours=2)
    (row,) = moved(settings)
    storage.objects.clear()
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET storage_due_at = now()"))

    mover = Mover(settings)
    mover.run_once()
    assert local(settings, row).exists()
    mover.run_once()
    assert storage.keys() == [object_files.key(row.file_path)]


def test_local_copy_is_kept_if_its_object_is_cut(settings: Settings, storage: FakeStorage) -> None:
    """By a service that lost the end of it: its metadata are as before."""
    settings = settings.replace(storage_keep_local_hours=2)
    (row,) = moved(settings)
    (put,) = storage.objects.values()
    put.body = put.body[:-2]
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET storage_due_at = now()"))

    Mover(settings).run_once()
    assert local(settings, row).exists()
    Mover(settings).run_once()
    assert local(settings, row).exists(), "the object is not replaced, and not taken for the file"
    (row,) = rows(settings, Instance)
    assert row.object_sha256 is None


def test_file_that_alone_is_refused_does_not_delay_the_others(settings: Settings, storage: FakeStorage) -> None:
    found = indexed(settings, 4)
    storage.refused_keys = {f"prelim/{object_files.key(found[1].file_path)}"}
    mover = Mover(settings)
    mover.run_once()

    assert len(storage.keys()) == 3
    with transaction(settings.database()) as session:
        assert moves.waiting(session).set_aside == 1
    assert local(settings, found[1]).exists()


def test_files_that_are_refused_from_some_time_on_wait_for_the_storage(
    settings: Settings, storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account was withdrawn: none of them is set aside."""
    monkeypatch.setattr(mover, "THREADS", 1)
    found = indexed(settings, 4)
    storage.refused_keys = {f"prelim/{object_files.key(row.file_path)}" for row in found[1:]}
    with pytest.raises(Unavailable, match="403 AccessDenied"):
        Mover(settings).run_once()

    with transaction(settings.database()) as session:
        assert moves.waiting(session).set_aside == 0
    storage.refused_keys = set()
    Mover(settings).run_once()
    assert len(storage.keys()) == 4


def test_audit_and_commitment_find_an_object_that_is_cut(settings: Settings, storage: FakeStorage) -> None:
    settings = settings.replace(storage_commit_after="store")
    moved(settings)
    assert commitment_failures(settings) == []
    (put,) = storage.objects.values()
    put.body = put.body[:-2]

    assert [found.rule for found in audit.check(settings)] == [audited_objects.DIFFERS]
    assert len(commitment_failures(settings)) == 1


def test_cut_and_wrong_bodies_are_read_again_or_refused(settings: Settings, storage: FakeStorage) -> None:
    (row,) = moved(settings)
    storage.wrong = 1
    assert readable(settings, row)

    (cached,) = (settings.operations.data_dir / object_cache.CACHE).glob("*.dcm")
    cached.unlink()
    storage.cut = 1
    with pytest.raises(Unavailable, match="does not answer"):
        readable(settings, row)

    storage.wrong = 2
    with pytest.raises(Damaged, match="restore it from a backup"):
        readable(settings, row)
    assert [
        path for path in (settings.operations.data_dir / object_cache.CACHE).iterdir() if path.suffix == ".part"
    ] == []


def test_file_whose_move_the_database_has_lost_comes_back(settings: Settings, storage: FakeStorage) -> None:
    (row,) = moved(settings)
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE instances SET object_sha256 = NULL, storage_due_at = now()"))
    (row,) = moved(settings, 0)

    assert row.object_sha256
    assert storage.keys() == [object_files.key(row.file_path)]
    assert readable(settings, row)
    assert audit.check(settings) == []


def test_parts_that_a_killed_reader_has_left_are_deleted(settings: Settings) -> None:
    (row,) = moved(settings)
    readable(settings, row)
    cached = settings.operations.data_dir / object_cache.CACHE / object_files.cache_name(row.file_path)
    left = [path.with_name(f"{path.name}.1.part") for path in (cached, local(settings, row))]
    running = cached.with_name(f"{cached.name}.2.part")
    for path in (*left, running):
        path.write_bytes(b"a part of an image")
    for path in left:
        os.utime(path, (0, 0))

    Mover(settings).sweep()

    assert not any(path.exists() for path in left)
    assert running.exists()
    assert cached.exists()


def test_full_disk_is_not_taken_for_an_outage_of_the_storage(settings: Settings) -> None:
    (row,) = moved(settings)

    def full(_: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        object_files.required(object_files.bucket(settings)).get(object_files.key(row.file_path), full)


def test_files_of_before_are_moved_too(settings: Settings, storage: FakeStorage) -> None:
    indexed(settings.replace(storage_url=None), 2)
    moved(settings, 0)

    assert len(storage.keys()) == 2


def test_deleted_study_leaves_no_object(settings: Settings, storage: FakeStorage) -> None:
    (row,) = moved(settings)
    readable(settings, row)
    delete_study(settings)

    storage.away = True
    failure = file_deletions.delete_files(settings)
    assert isinstance(failure, Unavailable)
    storage.away = False
    # Without the settings of the storage, the object stays, and the command fails.
    assert "PRELIM_STORAGE_URL" in str(file_deletions.delete_files(settings.replace(storage_url=None)))
    assert file_deletions.delete_files(settings) is None

    assert storage.keys() == []
    assert list((settings.operations.data_dir / object_cache.CACHE).glob("*.dcm")) == []
    assert rows(settings, FileDeletion) == []  # type: ignore[arg-type]


def delete_study(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE studies SET state = 'reported', settled_at = now(), settle_reason = 'quiet'"))
        limits = retention.Limits(dt.datetime.now(dt.UTC) + dt.timedelta(days=1))
        uids = [uid for uid, _ in retention.next_page(session, limits, "", 10, images_only=False)]
        retention.delete_studies(session, retention.locked(session, uids, limits))


def test_study_deleted_while_its_object_is_put_leaves_none(
    settings: Settings, storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    indexed(settings)
    real = bucket.Bucket.put

    def slow(*arguments: object) -> bool:
        delete_study(settings)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bucket.Bucket, "put", slow)
    Mover(settings).run_once()
    assert len(storage.keys()) == 1

    assert file_deletions.delete_files(settings) is None
    assert storage.keys() == []


def test_audit_finds_objects_and_rows_without_each_other(settings: Settings, storage: FakeStorage) -> None:
    moved(settings, 2)
    lost, other = storage.keys()
    content = storage.objects.pop(f"prelim/{lost}")
    storage.objects[f"prelim/{other}"] = Put(b"another", {})
    storage.objects["prelim/ab/unknown.dcm"] = content

    assert sorted(audit_rules(settings, storage)) == sorted(
        [audited_objects.MISSING, audited_objects.DIFFERS, audited_objects.NO_ROW]
    )
    storage.failing = 503
    assert [violation.rule for violation in audit.check(settings)] == [audited_objects.AWAY]


def test_object_without_a_row_returns_to_the_inbox(settings: Settings, storage: FakeStorage) -> None:
    moved(settings)
    with transaction(settings.database()) as session:
        session.execute(text("DELETE FROM instances"))

    (violation,) = [found for found in audit.check(settings) if found.rule == audited_objects.NO_ROW]
    assert audit.repair_violation(settings, violation)
    (row,) = moved(settings, 0)

    assert storage.keys() == [object_files.key(row.file_path)]
    assert audited_objects.NO_ROW not in audit_rules(settings, storage)


def test_missing_object_is_moved_again_from_local_disk(settings: Settings, storage: FakeStorage) -> None:
    settings = settings.replace(storage_keep_local_hours=2)
    moved(settings)
    storage.objects.clear()

    (violation,) = audit.check(settings)
    assert audit.repair_violation(settings, violation)
    Mover(settings).run_once()

    assert audit.check(settings) == []


def test_resent_object_replaces_a_lost_one(settings: Settings, storage: FakeStorage) -> None:
    dataset = image()
    receive(settings, dataset)
    moved(settings, 0)
    storage.objects.clear()

    receive(settings, dataset)
    moved(settings, 0)
    (row,) = moved(settings, 0)

    assert storage.keys() == [object_files.key(row.file_path)]
    assert audit.check(settings) == []


def test_large_object_is_put_in_parts(
    settings: Settings, storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "MULTIPART", 300)
    monkeypatch.setattr(bucket, "PART", 256)
    storage.uploads["of a killed run"] = Begun("prelim/other")
    (row,) = moved(settings)

    assert readable(settings, row)
    assert ("POST", f"prelim/{object_files.key(row.file_path)}") in storage.requests
    assert list(storage.uploads) == ["of a killed run"]


def test_uploads_without_an_end_are_aborted_after_a_day(settings: Settings, storage: FakeStorage) -> None:
    long_ago = (dt.datetime.now(dt.UTC) - dt.timedelta(days=2)).isoformat()
    storage.max_uploads = 2
    for number in range(5):
        storage.uploads[f"old-{number}"] = Begun(f"prelim/ab/{number // 2}.dcm", begun=long_ago)
    storage.uploads["of another prefix"] = Begun("other/ab/1.dcm", begun=long_ago)
    storage.uploads["of another program"] = Begun("prelim/backup.tar", begun=long_ago)
    storage.uploads["running"] = Begun("prelim/ab/2.dcm")

    Mover(settings).sweep()
    assert sorted(storage.uploads) == ["of another prefix", "of another program", "running"]


def test_files_move_although_uploads_cannot_be_listed(settings: Settings, storage: FakeStorage) -> None:
    storage.lists_uploads = False
    (row,) = moved(settings)

    assert storage.keys() == [object_files.key(row.file_path)]


def test_cache_keeps_its_size_and_what_is_in_use(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_cache, "MEASURE_SECONDS", 0)
    found = moved(settings, 4)
    settings = settings.replace(storage_cache_gib=1e-9)
    cache = settings.operations.data_dir / object_cache.CACHE
    readable(settings, found[0])
    for entry in cache.iterdir():
        os.utime(entry, (0, 0))

    with object_files.opened(settings) as stored:
        paths = [stored.path(row) for row in found[1:]]
        assert all(path.exists() for path in paths)
    assert len(list(cache.glob("*.dcm"))) == 3


def commitment_failures(settings: Settings) -> list[tuple[str, str, int]]:
    known = {row.sop_instance_uid: row for row in rows(settings, Instance)}
    return verify.failures(settings, [(row.sop_class_uid, uid) for uid, row in known.items()], known, ())


def test_commitment_asks_for_a_moved_object(settings: Settings, storage: FakeStorage) -> None:
    moved(settings)
    assert commitment_failures(settings) == []

    storage.failing = 503
    with pytest.raises(Unavailable):
        commitment_failures(settings)
    storage.failing = None
    storage.objects.clear()
    assert [reason for _, _, reason in commitment_failures(settings)] == [verify.PROCESSING_FAILURE]


def test_commitment_waits_for_the_move_if_set(settings: Settings) -> None:
    indexed(settings)
    assert commitment_failures(settings) == []
    settings = settings.replace(storage_commit_after="store")
    with pytest.raises(Unavailable, match="not moved yet"):
        commitment_failures(settings)
    moved(settings, 0)
    assert commitment_failures(settings) == []
