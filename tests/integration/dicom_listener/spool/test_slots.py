"""Slots of the spool: one for each process, recovered after its end by the next owner or the dispatcher."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from dicom_listener.spool import slots
from dicom_listener.spool.associations import AssociationMarks, SpoolMarks, Transfer
from dicom_listener.spool.durable import Spool, file_name
from dicom_listener.spool.inbox import Inbox
from dicom_listener.spool.waiting import WaitingFiles, received
from tests.integration.dicom_listener.objects import encode, header, image

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.spool.durable import Slot


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def put(slot: Slot, suffix: str = ".dcm") -> Path:
    """A complete object in the slot's inbox; `.part` as after a kill or a power cut."""
    dataset = image()
    box = Inbox(slot)
    box.open()
    writer = box.begin(header(dataset))
    writer.write(encode(dataset))
    path = writer.commit()
    box.close()
    return path.rename(path.with_suffix(suffix))


def names(spool: Spool) -> list[str]:
    return [slot.root.name for slot in spool.slots()[1:]]


def test_each_process_has_a_slot_and_recovers_only_its_own(spool: Spool) -> None:
    first = slots.own(spool, "host")
    half = put(first.slot, ".part")
    second = slots.own(spool, "host")
    other_host = slots.own(spool, "other")
    assert names(spool) == ["host-0", "host-1", "other-0"]
    assert half.exists(), "the first process may still be writing it"
    for owned in (first, second, other_host):
        owned.release()

    again = slots.own(spool, "host")
    assert (again.slot.root, half.exists()) == (first.slot.root, False)
    assert [file_name(path) for path in received(spool)] == [file_name(half)]
    again.release()


def test_host_name_cannot_leave_the_folder(spool: Spool) -> None:
    with_separator = slots.own(spool, "../a b")
    assert with_separator.slot.root == spool.root / "slots" / ".._a_b-0"
    with_separator.release()


def test_slot_without_process_is_recovered_and_removed_when_its_files_are_indexed(spool: Spool) -> None:
    gone = slots.own(spool, "host")
    marks = AssociationMarks(gone.slot)
    marks.write(Transfer("lost", "1.2.3"))
    path = put(gone.slot, ".part")
    owned = slots.own(spool, "other")
    slots.recover_abandoned(spool)
    assert path.exists(), "it has an owner"

    gone.release()
    slots.recover_abandoned(spool)
    assert [(found.parent, file_name(found)) for found in received(spool)] == [(gone.slot.inbox, file_name(path))]
    assert [transfer.association_id for transfer in SpoolMarks(spool).broken()] == ["lost"]
    slots.recover_abandoned(spool)
    assert names(spool) == ["host-0", "other-0"], "it has files"

    next(received(spool)).unlink()
    SpoolMarks(spool).forget("lost")
    slots.recover_abandoned(spool)
    assert names(spool) == ["other-0"]
    again = slots.own(spool, "host")
    assert put(again.slot).exists()
    for each in (owned, again):
        each.release()


def test_slot_that_cannot_be_read_does_not_keep_others_from_being_recovered(spool: Spool) -> None:
    damaged, gone = slots.own(spool, "a"), slots.own(spool, "b")
    path = put(gone.slot, ".part")
    for owned in (damaged, gone):
        owned.release()
    damaged.slot.inbox.rmdir()
    damaged.slot.inbox.touch()
    with pytest.raises(NotADirectoryError):
        slots.recover_abandoned(spool)
    assert [file_name(found) for found in path.parent.iterdir()] == [file_name(path)]
    assert not path.exists()
    assert names(spool) == ["a-0", "b-0"]


def test_file_beside_the_slots_is_no_slot(spool: Spool) -> None:
    owned = slots.own(spool, "host")
    path = put(owned.slot)
    (owned.slot.root.parent / "notes.txt").touch()
    assert list(received(spool)) == [path]
    slots.recover_abandoned(spool)
    owned.release()


def test_slot_removed_at_the_moment_of_locking_is_not_used(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    slots.own(spool, "host").release()
    os_open = os.open

    def removed_after_open(path: Path, flags: int, mode: int = 0o777) -> int:
        descriptor = os_open(path, flags, mode)
        if flags & os.O_CREAT and str(path).endswith("host-0/listener.lock"):
            path.unlink()
        return descriptor

    monkeypatch.setattr(os, "open", removed_after_open)
    owned = slots.own(spool, "host")
    assert owned.slot.root.name == "host-1"
    owned.release()


def test_spool_of_an_earlier_version_is_recovered_and_kept(spool: Spool) -> None:
    """It had one inbox, directly in the spool, with a lock that the listener held."""
    spool.unowned.prepare()
    whole, half = put(spool.unowned, ".part"), put(spool.unowned, ".part")
    half.write_bytes(half.read_bytes()[:-1])
    AssociationMarks(spool.unowned).write(Transfer("lost", "1.2.3"))
    earlier = os.open(spool.unowned.lock, os.O_RDWR | os.O_CREAT)
    os.close(earlier)

    slots.recover_abandoned(spool)
    assert [(path.parent, file_name(path)) for path in received(spool)] == [(spool.inbox, file_name(whole))]
    assert [transfer.association_id for transfer in SpoolMarks(spool).broken()] == ["lost"]
    assert list(spool.inbox.glob("*.part")) == []


def test_objects_of_all_slots_are_taken_oldest_first_and_urgent_ones_before(spool: Spool) -> None:
    owned = [slots.own(spool, f"host{number}") for number in range(2)]
    expected = []
    for number in range(6):
        path = put(owned[number % 2].slot)
        path = path.rename(path.with_stem(f"{path.stem}-r{'0' * 16}"))
        os.utime(path, (number, number))
        expected.append(path)
    urgent = put(owned[1].slot)
    urgent = urgent.rename(urgent.with_stem(f"{urgent.stem}-u{'1' * 16}"))
    waiting = WaitingFiles(spool)
    waiting.refresh()
    assert waiting.take(2, 2**30) == [urgent, expected[0]]
    assert waiting.take(10, 2**30) == expected[1:]
    for each in owned:
        each.release()
