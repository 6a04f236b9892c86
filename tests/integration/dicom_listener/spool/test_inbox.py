"""Objects on their way into the inbox, with failing disks and power cuts."""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from db.operations import disk
from db.studies.settling import study_key
from dicom_listener.dicom.statuses import OutOfResources
from dicom_listener.spool import durable, file_meta, writer
from dicom_listener.spool.durable import DirectorySync, Spool
from dicom_listener.spool.inbox import PREPARED_FILES, Inbox, recover
from dicom_listener.spool.waiting import tag
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive, received
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dicom_listener.spool.writer import SpoolWriter

HEADER = file_meta.encode("1.2", "1.2.3", "1.2.840.10008.1.2.1", received())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@pytest.fixture
def box(spool: Spool) -> Iterator[Inbox]:
    box = Inbox(spool.unowned)
    box.open()
    yield box
    box.close()


def store(box: Inbox, content: bytes = b"data set") -> Path:
    """Store one object; returns its path."""
    return write_and_commit(box.begin(HEADER), content)


def write_and_commit(writing: SpoolWriter, content: bytes = b"data") -> Path:
    writing.write(content)
    return writing.commit()


def failing(code: int) -> Callable[..., Any]:
    """A system call that fails."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def names(spool: Spool, suffix: str) -> list[str]:
    return sorted(path.stem for path in spool.inbox.glob(f"*{suffix}"))


def descriptors() -> int:
    """Count the open descriptors of this process, those of prepared files included."""
    return len(list(Path("/proc/self/fd").iterdir()))


def restart(spool: Spool) -> tuple[int, int]:
    """Recover the inbox as its next owner does; returns how many objects were found complete and incomplete."""
    return recover(spool.inbox)


def test_stored_object_is_complete(spool: Spool, box: Inbox) -> None:
    path = store(box, b"x" * 100_000)
    assert file_meta.is_complete(path)
    assert path.read_bytes().endswith(b"x" * 100_000)
    assert names(spool, ".dcm") == [path.stem]


@pytest.mark.parametrize("fragments", [[b"small"], [b"in ", b"three ", b"pieces"], [b"", b"the last is empty", b""]])
def test_fragments_make_the_same_object(box: Inbox, fragments: list[bytes]) -> None:
    writing = box.begin(HEADER)
    for number, fragment in enumerate(fragments, 1):
        writing.write(fragment, last=number == len(fragments))
    path = writing.commit()
    assert file_meta.is_complete(path)
    assert path.read_bytes()[len(HEADER) :] == b"".join(fragments)


def test_object_in_one_fragment_is_one_write(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: written.append(writev(fd, buffers)) or written[-1])
    writing = box.begin(HEADER)
    writing.write(b"small", last=True)
    assert written == []
    assert writing.commit().stat().st_size == written[0]


def test_more_objects_at_once_than_prepared_files(spool: Spool, box: Inbox) -> None:
    writers = [box.begin(HEADER) for _ in range(PREPARED_FILES * 3)]
    for writing in writers:
        writing.commit()
    assert len(names(spool, ".dcm")) == PREPARED_FILES * 3


def test_stop_leaves_only_the_objects(spool: Spool) -> None:
    box = Inbox(spool.unowned)
    box.open()
    store(box)
    box.begin(HEADER).discard()
    box.close()
    assert len(list(spool.inbox.iterdir())) == 1


def test_superseded_names_are_removed(spool: Spool, box: Inbox) -> None:
    path = store(box)
    wait_until(lambda: path.stem not in names(spool, ".part"))
    assert path.stat().st_nlink == 1


def test_object_whose_second_name_was_lost_in_a_power_cut_is_recovered(spool: Spool, box: Inbox) -> None:
    stored = [store(box), store(box)]
    box.close()
    for path in stored:  # as before the removal of the first names
        os.link(path, path.with_suffix(".part"))
    stored[0].unlink()

    assert restart(spool)[0] == 2
    assert names(spool, ".dcm") == sorted(path.stem for path in stored)
    assert names(spool, ".part") == []


def test_recovered_object_is_flushed_before_it_is_linked(
    spool: Spool, box: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = store(box).rename(spool.inbox / "killed.part")
    box.close()
    calls: list[str] = []
    flush, link = os.fdatasync, os.link

    def flushed(descriptor: int) -> None:
        calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        flush(descriptor)

    def linked(path: Path, *names: Path) -> None:
        calls.append("linked")
        link(path, *names)

    monkeypatch.setattr(os, "fdatasync", flushed)
    monkeypatch.setattr(os, "link", linked)
    assert restart(spool) == (1, 0)
    assert calls == [part.name, "linked"]


@pytest.mark.parametrize(("requested", "urgent"), [("STAT", True), ("ROUTINE", False)])
def test_recovered_object_is_a_waiting_file_of_its_study(tmp_path: Path, requested: str, urgent: bool) -> None:
    dataset = image(RequestedProcedurePriority=requested)
    received_path = receive(settings_for(tmp_path), dataset)
    received_path.rename(received_path.with_suffix(".part"))
    assert recover(received_path.parent) == (1, 0)

    (recovered,) = received_path.parent.iterdir()
    assert recovered.stem == received_path.stem + tag(study_key(dataset.StudyInstanceUID), urgent=urgent)


def test_object_that_cannot_be_flushed_is_not_recovered(
    spool: Spool, box: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(box).rename(spool.inbox / "killed.part")
    box.close()
    monkeypatch.setattr(os, "fdatasync", failing(errno.EIO))
    assert restart(spool) == (0, 0)
    assert (names(spool, ".dcm"), names(spool, ".part")) == ([], ["killed"])


@pytest.mark.parametrize("damage", ["cut", "flip", "unsealed", "empty"])
def test_incomplete_file_is_removed_and_never_indexed(spool: Spool, damage: str) -> None:
    content = HEADER + b"data set"
    sealed = file_meta.seal(len(content), zlib.crc32(b"data set", zlib.crc32(HEADER[:-24])))
    whole = HEADER[:-24] + sealed + b"data set"
    contents = {"cut": whole[:-1], "flip": whole[:-1] + b"T", "unsealed": HEADER + b"data set", "empty": b""}
    (spool.inbox / "good.part").write_bytes(whole)
    (spool.inbox / "half.part").write_bytes(contents[damage])

    assert restart(spool) == (1, 1)
    assert (names(spool, ".dcm"), names(spool, ".part")) == (["good"], [])


@pytest.mark.parametrize("call", ["writev", "pwrite", "fdatasync", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_disk_error_is_reported_and_leaves_nothing(
    spool: Spool, box: Inbox, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    before = descriptors()
    writing = box.begin(HEADER)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        with pytest.raises(OutOfResources, match=os.strerror(code)):
            write_and_commit(writing)
    writing.discard()
    assert names(spool, ".dcm") == []
    wait_until(lambda: descriptors() == before)
    assert store(box).exists(), "the disk works again"


def test_after_a_failed_flush_of_the_directory_every_object_is_refused(
    box: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = store(box)
    writers: list[SpoolWriter] = []

    def exhaust() -> None:
        writers.extend(iter(lambda: box.begin(HEADER), None))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OutOfResources, match="flush"):
            exhaust()
    with pytest.raises(OutOfResources, match="flush"):
        exhaust()
    assert stored.exists()
    for writing in writers:
        writing.discard()
    wait_until(lambda: len(list(stored.parent.glob("*.part"))) <= 1)


def test_directory_that_cannot_be_opened_is_flushed_later(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = DirectorySync(spool.inbox)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EMFILE))
        with pytest.raises(OSError, match="open files"):
            sync()
    sync()


def test_discarded_file_that_cannot_be_removed_is_removed_by_the_next_start(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Inbox(spool.unowned)
    box.open()
    writing = box.begin(HEADER)
    writing.write(b"half of it")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing(errno.EROFS))
        writing.discard()
    box.close()
    assert restart(spool) == (0, 1)
    assert names(spool, ".part") == []


def test_superseded_names_that_cannot_be_removed_are_removed_later(
    spool: Spool, box: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[Path] = []

    def fail(path: Path, **_: object) -> None:
        failed.append(path)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        path = store(box)
        wait_until(lambda: bool(failed))
    wait_until(lambda: path.stem not in names(spool, ".part"))


def test_unreadable_file_does_not_stop_the_start(spool: Spool, box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = store(box)
    box.close()
    stored.rename(stored.with_suffix(".part"))
    (spool.inbox / "bad.part").write_bytes(b"on a bad block")
    is_complete = file_meta.is_complete
    monkeypatch.setattr(
        file_meta, "is_complete", lambda path: failing(errno.EIO)() if path.stem == "bad" else is_complete(path)
    )
    assert restart(spool)[0] == 1
    assert (names(spool, ".dcm"), names(spool, ".part")) == ([stored.stem], ["bad"])


def test_every_directory_made_for_the_spool_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    Spool(tmp_path / "new" / "deep" / "data" / "spool").prepare()
    assert {tmp_path, tmp_path / "new", tmp_path / "new" / "deep", tmp_path / "new" / "deep" / "data"} <= set(synced)
    assert tmp_path.parent not in synced


def test_short_write_is_completed(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: writev(fd, [b"".join(map(bytes, buffers))[:1000]]))
    assert file_meta.is_complete(store(box, os.urandom(5000)))


def test_object_is_refused_when_only_the_reserve_is_free(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "RESERVED_BYTES", 2**62)
    with pytest.raises(OutOfResources, match="full"):
        box.begin(HEADER)


def test_object_that_would_use_the_reserve_is_refused_while_it_is_received(
    spool: Spool, box: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FREE_SPACE_VALID_SECONDS", 0)
    writing = box.begin(HEADER)
    writing.write(b"space is free")
    monkeypatch.setattr(disk, "RESERVED_BYTES", 2**62)
    with pytest.raises(OutOfResources, match="full"):
        writing.write(b"no more")
    with pytest.raises(OutOfResources, match="full"):
        writing.commit()
    assert names(spool, ".dcm") == []


def test_replaced_directory_costs_one_refusal(spool: Spool, box: Inbox) -> None:
    shutil.rmtree(spool.inbox)
    spool.inbox.mkdir()
    with pytest.raises(OutOfResources, match="No such file"):
        store(box)
    assert all(file_meta.is_complete(store(box)) for _ in range(PREPARED_FILES))
