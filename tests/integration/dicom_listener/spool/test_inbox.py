"""What a disk and a power cut can do to an object on its way into the inbox."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from db.errors import ConfigurationError
from dicom_listener.dicom.statuses import OutOfResources
from dicom_listener.spool import durable, file_meta, inbox
from dicom_listener.spool.durable import DirectorySync, Spool
from dicom_listener.spool.inbox import AHEAD, Arrival, Inbox
from tests.integration.dicom_listener.objects import received
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD = file_meta.encode("1.2", "1.2.3", "1.2.840.10008.1.2.1", received())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


@pytest.fixture
def box(spool: Spool) -> Iterator[Inbox]:
    box = Inbox(spool)
    box.open()
    yield box
    box.close()


def keep(box: Inbox, content: bytes = b"data set") -> Path:
    arrival = box.begin(HEAD)
    arrival.write(content)
    return arrival.keep()


def write_and_keep(arrival: Arrival) -> None:
    arrival.write(b"data")
    arrival.keep()


def failing(code: int) -> Callable[..., Any]:
    """A call of the system that fails."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def names(spool: Spool, suffix: str) -> list[str]:
    return sorted(path.stem for path in spool.inbox.glob(f"*{suffix}"))


def descriptors() -> int:
    """Open ones of this process, the files made in advance among them."""
    return len(list(Path("/proc/self/fd").iterdir()))


def restart(spool: Spool) -> tuple[int, int]:
    """What a listener finds that starts after a crash."""
    box = Inbox(spool)
    found = box.open()
    box.close()
    return found


def crashed(box: Inbox) -> None:
    """Leave the inbox as kill -9 does: without tidying up."""
    box._closed = True
    box._wake.set()
    box._tending.join()
    assert box._lock is not None
    os.close(box._lock)


def test_a_kept_object_is_whole_and_says_so(spool: Spool, box: Inbox) -> None:
    path = keep(box, b"x" * 100_000)
    assert file_meta.is_whole(path)
    assert path.read_bytes().endswith(b"x" * 100_000)
    assert names(spool, ".dcm") == [path.stem]


@pytest.mark.parametrize("fragments", [[b"small"], [b"in ", b"three ", b"pieces"], [b"", b"the last is empty", b""]])
def test_an_object_is_the_same_in_however_many_pieces_it_comes(box: Inbox, fragments: list[bytes]) -> None:
    arrival = box.begin(HEAD)
    for number, fragment in enumerate(fragments, 1):
        arrival.write(fragment, last=number == len(fragments))
    path = arrival.keep()
    assert file_meta.is_whole(path)
    assert path.read_bytes()[len(HEAD) :] == b"".join(fragments)


def test_an_object_that_comes_in_one_piece_is_one_write(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: written.append(writev(fd, buffers)) or written[-1])
    arrival = box.begin(HEAD)
    arrival.write(b"small", last=True)
    assert written == []
    assert arrival.keep().stat().st_size == written[0]


def test_more_objects_at_once_than_files_made_in_advance(spool: Spool, box: Inbox) -> None:
    arrivals = [box.begin(HEAD) for _ in range(AHEAD * 3)]
    for arrival in arrivals:
        arrival.keep()
    assert len(names(spool, ".dcm")) == AHEAD * 3


def test_a_stop_leaves_nothing_but_the_objects(spool: Spool) -> None:
    box = Inbox(spool)
    box.open()
    keep(box)
    box.begin(HEAD).drop()
    box.close()
    assert len(list(spool.inbox.iterdir())) == 1


def test_the_first_names_are_removed_in_time(spool: Spool, box: Inbox) -> None:
    path = keep(box)
    wait_until(lambda: path.stem not in names(spool, ".part"))
    assert path.stat().st_nlink == 1


def test_an_object_whose_second_name_was_lost_in_a_power_cut_is_found_again(spool: Spool) -> None:
    box = Inbox(spool)
    box.open()
    kept = [keep(box), keep(box)]
    box.kept.clear()
    crashed(box)
    kept[0].unlink()

    assert restart(spool)[0] == 2
    assert names(spool, ".dcm") == sorted(path.stem for path in kept)
    assert names(spool, ".part") == []


@pytest.mark.parametrize("damage", ["cut", "flip", "unsealed", "empty"])
def test_half_a_file_is_never_offered_to_the_indexer(spool: Spool, damage: str) -> None:
    arrival_head = HEAD + b"data set"
    sealed = file_meta.seal(len(arrival_head), file_meta.checksum(b"data set", file_meta.checksum(HEAD[:-24])))
    whole = HEAD[:-24] + sealed + b"data set"
    contents = {"cut": whole[:-1], "flip": whole[:-1] + b"T", "unsealed": HEAD + b"data set", "empty": b""}
    (spool.inbox / "good.part").write_bytes(whole)
    (spool.inbox / "half.part").write_bytes(contents[damage])

    assert restart(spool) == (1, 1)
    assert (names(spool, ".dcm"), names(spool, ".part")) == (["good"], [])


@pytest.mark.parametrize("call", ["writev", "pwrite", "fdatasync", "link"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_said_and_leaves_nothing(
    spool: Spool, box: Inbox, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    before = descriptors()
    arrival = box.begin(HEAD)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        with pytest.raises(OutOfResources, match=os.strerror(code)):
            write_and_keep(arrival)
    arrival.drop()
    assert names(spool, ".dcm") == []
    wait_until(lambda: descriptors() == before)
    assert keep(box).exists(), "the next object finds a disk that works again"


def test_a_directory_that_cannot_be_flushed_takes_no_more(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep(box)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OSError, match="flush"):
            box._sync()
    with pytest.raises(OutOfResources):
        [box.begin(HEAD) for _ in range(AHEAD + 1)]
    assert kept.exists()
    # What is tried to be made in advance is removed again.
    wait_until(lambda: len(list(kept.parent.glob("*.part"))) <= AHEAD + 1)


def test_a_directory_that_cannot_be_opened_for_a_moment_is_flushed_later(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = DirectorySync(spool.inbox)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing(errno.EMFILE))
        with pytest.raises(OSError, match="open files"):
            sync()
    sync()


def test_a_file_that_cannot_be_removed_is_no_reason_to_fail(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Inbox(spool)
    box.open()
    arrival = box.begin(HEAD)
    arrival.write(b"half of it")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing(errno.EROFS))
        arrival.drop()
    crashed(box)
    assert restart(spool)[0] == 0
    assert names(spool, ".part") == []


def test_first_names_that_could_not_be_removed_are_removed_later(
    spool: Spool, box: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = keep(box)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", failing(errno.EIO))
        with pytest.raises(OSError, match="error"):
            box._remove_kept()
    wait_until(lambda: path.stem not in names(spool, ".part"))


def test_one_unreadable_file_does_not_keep_the_listener_down(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Inbox(spool)
    box.open()
    kept = keep(box)
    box.kept.clear()
    crashed(box)
    kept.unlink()
    (spool.inbox / "bad.part").write_bytes(b"on a bad block")
    is_whole = file_meta.is_whole
    monkeypatch.setattr(
        file_meta, "is_whole", lambda path: failing(errno.EIO)() if path.stem == "bad" else is_whole(path)
    )
    assert restart(spool)[0] == 1
    assert (names(spool, ".dcm"), names(spool, ".part")) == ([kept.stem], ["bad"])


def test_every_folder_made_for_the_spool_is_made_to_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    Spool(tmp_path / "new" / "deep" / "data" / "spool").prepare()
    assert {tmp_path, tmp_path / "new", tmp_path / "new" / "deep", tmp_path / "new" / "deep" / "data"} <= set(synced)
    assert tmp_path.parent not in synced


def test_a_short_write_is_completed(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    writev = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, buffers: writev(fd, [b"".join(map(bytes, buffers))[:1000]]))
    assert file_meta.is_whole(keep(box, os.urandom(5000)))


def test_a_reserve_is_left_on_the_disk(box: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "RESERVED_BYTES", 2**62)
    with pytest.raises(OutOfResources, match="full"):
        box.begin(HEAD)


def test_an_object_that_would_eat_the_reserve_is_refused_while_it_comes(
    spool: Spool, box: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrival = box.begin(HEAD)
    arrival.write(b"there is room")
    monkeypatch.setattr(inbox, "RESERVED_BYTES", 2**62)
    box._look_again = 0
    with pytest.raises(OutOfResources, match="full"):
        arrival.write(b"no more")
    with pytest.raises(OutOfResources, match="full"):
        arrival.keep()
    assert names(spool, ".dcm") == []


def test_a_folder_that_was_replaced_costs_one_refusal(spool: Spool, box: Inbox) -> None:
    shutil.rmtree(spool.inbox)
    spool.inbox.mkdir()
    with pytest.raises(OutOfResources, match="No such file"):
        keep(box)
    kept = [keep(box) for _ in range(AHEAD)]
    assert all(file_meta.is_whole(path) for path in kept)


@pytest.mark.usefixtures("box")
def test_two_listeners_cannot_share_a_spool(spool: Spool) -> None:
    with pytest.raises(ConfigurationError, match="another listener"):
        Inbox(spool).open()
