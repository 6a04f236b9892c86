"""Files that cannot be indexed: each is set aside or waits, and the others are indexed."""

from __future__ import annotations

import dataclasses
import errno
import os
import pathlib
import struct
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from db.models import Instance, Quarantined
from deploy.operate import audit
from dicom_listener.dicom.uids import STORAGE_COMMITMENT_PUSH_MODEL
from dicom_listener.indexing import file_locks, headers, indexer, unreadable
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.inbox import Inbox
from tests.fuzz.wire import explicit, implicit
from tests.integration.dicom_listener.indexing.spool_rows import files, rows
from tests.integration.dicom_listener.objects import encode, image, receive, received

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


def test_another_object_with_a_known_uid_is_quarantined(settings: Settings) -> None:
    first = image()
    receive(settings, first)
    receive(settings, image(SOPInstanceUID=first.SOPInstanceUID))
    indexer.run_once(settings)

    [instance], [other] = rows(settings, Instance), rows(settings, Quarantined)
    assert (settings.operations.data_dir / instance.file_path).read_bytes().endswith(encode(first))
    assert (other.reason, other.sop_instance_uid) == ("conflicting_sop_instance", first.SOPInstanceUID)
    assert (settings.operations.data_dir / other.file_path).stat().st_size == other.file_bytes
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 1}


@pytest.mark.parametrize("content", [b"", b"no DICOM", bytes(128) + b"DICM" + bytes(600)])
def test_file_that_is_no_object_is_quarantined(settings: Settings, content: bytes) -> None:
    (Spool(settings.spool).inbox / "odd.dcm").write_bytes(content)
    indexer.run_once(settings)

    [odd] = rows(settings, Quarantined)
    assert (odd.reason, odd.file_bytes) == ("unreadable", len(content))
    assert files(settings) == {"inbox": 0, "store": 0, "quarantine": 1}


@pytest.mark.parametrize("interrupted", [False, True])
def test_link_in_quarantine_of_an_interrupted_run_is_removed_when_the_file_is_indexed(
    settings: Settings, interrupted: bool
) -> None:
    path = receive(settings, image())
    if interrupted:
        os.link(path, Spool(settings.spool).quarantined_path(path))
    indexer.run_once(settings)

    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}
    assert audit.check(settings) == []


def test_image_damaged_on_disk_is_quarantined(settings: Settings) -> None:
    path = receive(settings, image())
    path.write_bytes(path.read_bytes()[:-10])
    receive(settings, image())
    indexer.run_once(settings)

    assert [row.reason for row in rows(settings, Quarantined)] == ["unreadable"]
    assert len(rows(settings, Instance)) == 1


def put(settings: Settings, operation: str, data: bytes, syntax: str = ImplicitVRLittleEndian) -> None:
    """Write a request to the inbox as the listener does."""
    reception = dataclasses.replace(received(), operation=operation)
    inbox = Inbox(Spool(settings.spool).unowned)
    inbox.open()
    writer = inbox.begin(file_meta.encode(STORAGE_COMMITMENT_PUSH_MODEL, "1.2.3", syntax, reception))
    writer.write(data)
    writer.commit()
    inbox.close()


def quarantined_beside_a_valid_one(settings: Settings) -> str:
    """Index all files and one valid image; returns the detail of the quarantined one."""
    receive(settings, image())
    while indexer.run_once(settings):
        pass
    assert len(rows(settings, Instance)) == 1
    assert files(settings)["inbox"] == 0
    [row] = rows(settings, Quarantined)
    return str(row.detail)


@pytest.mark.parametrize(
    ("operation", "syntax", "data"),
    [
        # pydicom calls it an OSError.
        (
            file_meta.N_ACTION,
            ExplicitVRLittleEndian,
            explicit(0x00081195, b"UI", b"1.2.3\0") + struct.pack("<HH2sHI", 8, 0x1199, b"SQ", 0, 2) + b"\xfe\xff",
        ),
        (file_meta.N_ACTION, ExplicitVRLittleEndian, b"\xff" * 40),
        (
            file_meta.N_CREATE,
            ImplicitVRLittleEndian,
            implicit(0x00400252, b"IN PROGRESS ")
            + implicit(0x00400270, implicit(0xFFFEE000, implicit(0x0020000D, b"1" * 20_000))),
        ),
        (file_meta.N_CREATE, ImplicitVRLittleEndian, implicit(0x00400252, b"IN PROGRESS ")),
    ],
    ids=["cut sequence", "garbage", "long study UID", "no study"],
)
def test_malformed_request_is_quarantined_and_the_rest_indexed(
    settings: Settings, operation: str, syntax: str, data: bytes
) -> None:
    put(settings, operation, data, syntax)
    assert f"malformed {operation}" in quarantined_beside_a_valid_one(settings)


def test_file_with_an_unexpected_error_is_quarantined_and_the_rest_indexed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = receive(settings, image())
    read = headers.read

    def stumble(path: Path, *more: Any) -> Any:
        if path == odd:
            raise LookupError("Müller^Änne")
        return read(path, *more)

    monkeypatch.setattr(headers, "read", stumble)
    assert quarantined_beside_a_valid_one(settings) == "indexing failed (LookupError)"


class Disk:
    """A disk that returns an error for some files, whenever they are opened, examined or linked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.errors: dict[str, int] = {}
        for module, call in ((pathlib.Path, "open"), (pathlib.Path, "lstat"), (os, "link")):
            monkeypatch.setattr(module, call, self._failing(getattr(module, call)))

    def _failing(self, call: Any) -> Any:
        def checked(path: Path, *arguments: Any, **options: Any) -> Any:
            code = self.errors.get(path.name) or self.errors.get("*")
            if code is not None:
                raise OSError(code, os.strerror(code))
            return call(path, *arguments, **options)

        return checked


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("code", [errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EACCES, errno.ESTALE])
def test_file_with_a_disk_error_is_named_and_the_rest_indexed(settings: Settings, disk: Disk, code: int) -> None:
    odd = receive(settings, image())
    for _ in range(3):
        receive(settings, image())
    disk.errors[odd.name] = code

    assert indexer.run_once(settings) == 4
    assert indexer.run_once(settings) == 0, "it rests"

    [row] = rows(settings, Quarantined)
    assert (row.reason, row.detail) == ("file_error", f"the file cannot be read: {os.strerror(code)}")
    assert len(rows(settings, Instance)) == 3
    assert (odd.exists(), row.file_path) == (True, f"spool/inbox/{odd.name}"), "it cannot be linked either"


@pytest.mark.parametrize("content", [b"no DICOM", "a conflict"])
def test_readable_file_that_cannot_be_linked_is_named_and_the_rest_indexed(
    settings: Settings, content: bytes | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = image()
    receive(settings, first)
    if isinstance(content, bytes):
        odd = Spool(settings.spool).inbox / f"{uuid.uuid4().hex}.dcm"
        odd.write_bytes(content)
    else:
        odd = receive(settings, image(SOPInstanceUID=first.SOPInstanceUID))
    receive(settings, image())
    link = os.link

    def refuse(source: Path, target: Path, **options: Any) -> None:
        if target.name == odd.name and target.parent.name == "quarantine":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        link(source, target, **options)

    monkeypatch.setattr(os, "link", refuse)
    assert indexer.run_once(settings) == 3
    assert indexer.run_once(settings) == 0, "it rests"

    [row] = rows(settings, Quarantined)
    assert (row.file_path, len(row.sha256)) == (f"spool/inbox/{odd.name}", 64)
    assert len(rows(settings, Instance)) == 2
    assert (odd.exists(), audit.check(settings)) == (True, [])


def test_file_that_cannot_be_removed_is_indexed_once_and_does_not_stop_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [receive(settings, image()) for _ in range(4)]
    unlink = pathlib.Path.unlink

    def fail(path: Path, *, missing_ok: bool = False) -> None:
        if path == paths[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "unlink", fail)
        assert indexer.run_once(settings) == 4
        assert [path.exists() for path in paths] == [True, False, False, False]
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + unreadable.PAUSE_SECONDS)
    assert indexer.run_once(settings) == 1

    assert len(rows(settings, Instance)) == 4
    assert files(settings) == {"inbox": 0, "store": 4, "quarantine": 0}


def test_file_that_another_dispatcher_indexed_after_a_disk_error_is_not_quarantined(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = receive(settings, image())
    read_meta = headers.read_meta

    def fails(_: Path) -> Any:
        with monkeypatch.context() as other:
            other.setattr(headers, "read_meta", read_meta)
            # The lock of a dispatcher that waits for its disk is ignored after a while.
            other.setattr(file_locks, "FROZEN_SECONDS", -1.0)
            assert indexer.run_once(settings) == 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(headers, "read_meta", fails)
    indexer.run_once(settings)

    assert rows(settings, Quarantined) == []
    assert len(rows(settings, Instance)) == 1
    assert not odd.exists()


@pytest.mark.parametrize("interrupted_at", ["before the commit", "after the commit"])
def test_file_that_fails_after_an_interrupted_run_is_stored_only_if_it_has_a_row(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, interrupted_at: str
) -> None:
    def crash(*_: object, **__: object) -> None:
        raise SystemExit

    def fails(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    receive(settings, image())
    step = {"before the commit": "db.studies.batches.record", "after the commit": "pathlib.Path.unlink"}[interrupted_at]
    with monkeypatch.context() as patch:
        patch.setattr(step, crash)
        with pytest.raises(SystemExit):
            indexer.run_once(settings)
    monkeypatch.setattr(headers, "read_meta", fails)
    indexer.run_once(settings)

    stored = len(rows(settings, Instance))
    assert stored == (interrupted_at == "after the commit")
    assert files(settings) == {"inbox": 0, "store": stored, "quarantine": 1}
    assert audit.check(settings) == []


def test_link_in_the_store_stays_while_another_dispatcher_could_index_the_file(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = receive(settings, image())
    os.link(path, Spool(settings.spool).stored_path(path))
    with file_locks.held([path]), monkeypatch.context() as patch:
        patch.setattr(file_locks, "FROZEN_SECONDS", -1.0)
        patch.setattr(headers, "read_meta", fails)
        indexer.run_once(settings)
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 1}

    [found] = audit.check(settings)
    assert audit.repair_violation(settings, found)
    indexer.run_once(settings)
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])
    assert audit.check(settings) == []


def test_file_that_can_be_read_again_leaves_quarantine(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = receive(settings, image())
    disk.errors[odd.name] = errno.EACCES
    indexer.run_once(settings)
    del disk.errors[odd.name]
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + unreadable.PAUSE_SECONDS)

    assert indexer.run_once(settings) == 1
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])
    assert files(settings) == {"inbox": 0, "store": 1, "quarantine": 0}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["directory", "loop", "dangling", "pipe"])
def test_entry_that_is_no_file_does_not_stop_the_others(settings: Settings, kind: str) -> None:
    odd = Spool(settings.spool).inbox / "odd.dcm"
    if kind == "directory":
        odd.mkdir()
    elif kind == "pipe":
        os.mkfifo(odd)
    else:
        odd.symlink_to(odd if kind == "loop" else "missing")
    receive(settings, image())

    assert indexer.run_once(settings) == 2
    assert indexer.run_once(settings) == 0
    assert [row.reason for row in rows(settings, Quarantined)] == ["file_error"]
    assert len(rows(settings, Instance)) == 1


def test_several_unreadable_files_in_a_row_wait_and_the_rest_is_indexed(settings: Settings, disk: Disk) -> None:
    odd = [receive(settings, image()) for _ in range(unreadable.IN_A_ROW)]
    receive(settings, image())
    disk.errors |= {path.name: errno.EIO for path in odd}

    assert indexer.run_once(settings) == 4
    assert indexer.run_once(settings) == 0
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])
    assert unreadable.of_spool(settings.spool).info() == {"files": 3, "error": os.strerror(errno.EIO)}


def test_several_unreadable_files_in_a_row_are_set_aside_at_their_second_visit(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = [receive(settings, image()) for _ in range(unreadable.IN_A_ROW)]
    disk.errors |= {path.name: errno.EUCLEAN for path in odd}
    indexer.run_once(settings)
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + unreadable.PAUSE_SECONDS)
    indexer.run_once(settings)

    assert [row.reason for row in rows(settings, Quarantined)] == ["file_error"] * 3
    assert unreadable.of_spool(settings.spool).info() is None


def test_many_unreadable_files_wait_until_another_one_is_read(
    settings: Settings, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unreadable, "MAX_WITHOUT_READ", 2)
    monkeypatch.setattr(unreadable, "PAUSE_SECONDS", 0)
    odd = [receive(settings, image()) for _ in range(unreadable.IN_A_ROW)]
    disk.errors |= {path.name: errno.EUCLEAN for path in odd}
    for _ in range(2):
        indexer.run_once(settings)
    assert rows(settings, Quarantined) == []
    receive(settings, image())
    for _ in range(2):
        indexer.run_once(settings)

    assert (len(rows(settings, Instance)), len(rows(settings, Quarantined))) == (1, 3)


def test_missing_folder_of_the_store_quarantines_nothing(settings: Settings) -> None:
    receive(settings, image())
    folders = list(Spool(settings.spool).store.iterdir())
    for folder in folders:
        folder.rmdir()
    with pytest.raises(FileNotFoundError):
        indexer.run_once(settings)
    for folder in folders:
        folder.mkdir()
    assert indexer.run_once(settings) == 1
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])


def test_disk_that_fails_altogether_quarantines_nothing(settings: Settings, disk: Disk) -> None:
    receive(settings, image())
    disk.errors["*"] = errno.EIO
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output"):
            indexer.run_once(settings)
    assert unreadable.of_spool(settings.spool).info() == {"files": 1, "error": os.strerror(errno.EIO)}

    disk.errors.clear()
    assert indexer.run_once(settings) == 1
    assert unreadable.of_spool(settings.spool).info() is None
    assert (len(rows(settings, Instance)), rows(settings, Quarantined)) == (1, [])
