"""The order in which waiting files are indexed."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from db.studies.settling import study_key
from dicom_listener.spool import waiting as module
from dicom_listener.spool.durable import Spool, file_name
from dicom_listener.spool.waiting import WaitingFile, WaitingFiles, tag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def put(
    root: Path, number: int, study: str = "", *, urgent: bool = False, size: int = 1, slot: str | None = None
) -> Path:
    """Put a file into an inbox that was received *number* seconds after the epoch."""
    tagged = tag(study_key(study), urgent=urgent) if study else ""
    inbox = Spool(root).slot(slot).inbox if slot else Spool(root).inbox
    inbox.mkdir(exist_ok=True, parents=True)
    path = inbox / f"{number:032x}{tagged}.dcm"
    path.write_bytes(bytes(size))
    os.utime(path, (number, number))
    return path


@pytest.fixture
def waiting(tmp_path: Path) -> WaitingFiles:
    return WaitingFiles(Spool(tmp_path))


def test_urgent_files_are_taken_before_older_ones_which_keep_a_fourth_of_the_batch(
    tmp_path: Path, waiting: WaitingFiles
) -> None:
    routine = [put(tmp_path, number, "1.2.3") for number in range(8)]
    urgent = [put(tmp_path, number, "1.2.4", urgent=True) for number in range(8, 16)]
    waiting.refresh()

    assert waiting.take(4, 100) == [*urgent[:3], routine[0]]


def test_request_of_an_unknown_study_is_taken_first_and_delays_settling_once(
    tmp_path: Path, waiting: WaitingFiles
) -> None:
    put(tmp_path, 1, "1.2.3", urgent=True)
    request = put(tmp_path, 2)
    waiting.refresh()
    assert waiting.has_unknown

    assert waiting.take(1, 100) == [request]
    waiting.refresh()
    assert not waiting.has_unknown, "it has been tried, and may be damaged"


def test_requests_of_unknown_studies_take_a_fourth_of_a_batch_while_urgent_files_wait(
    tmp_path: Path, waiting: WaitingFiles
) -> None:
    requests = [put(tmp_path, number) for number in range(20)]
    routine = [put(tmp_path, 20 + number, "1.2.3") for number in range(20)]
    urgent = put(tmp_path, 50, "1.2.4", urgent=True)
    waiting.refresh()
    batches = [waiting.take(8, 100) for _ in range(5)]

    assert batches[0] == [*requests[:2], urgent, routine[0]]
    assert batches[1] == [*requests[2:4], *routine[1:7]]
    assert sorted(path for batch in batches for path in batch[:2]) == requests[:10]
    while waiting.take(8, 100):
        pass
    assert not waiting.has_unknown


def test_requests_of_unknown_studies_fill_a_batch_if_nothing_else_waits(tmp_path: Path, waiting: WaitingFiles) -> None:
    requests = [put(tmp_path, number) for number in range(20)]
    waiting.refresh()
    assert waiting.take(8, 100) == requests[:8]


def test_batch_is_limited_in_bytes_but_holds_at_least_one_file(tmp_path: Path, waiting: WaitingFiles) -> None:
    paths = [put(tmp_path, number, "1.2.3", size=60) for number in range(3)]
    waiting.refresh()

    assert [waiting.take(10, 100), waiting.take(10, 10)] == [paths[:1], paths[1:2]]


def test_studies_of_waiting_files_are_known_until_the_files_are_gone(tmp_path: Path, waiting: WaitingFiles) -> None:
    path = put(tmp_path, 1, "1.2.3")
    waiting.refresh()
    assert waiting.studies == [study_key("1.2.3")]

    waiting.take(10, 100)
    waiting.refresh()
    assert waiting.studies == [study_key("1.2.3")], "it was not indexed"
    path.unlink()
    waiting.refresh()
    assert waiting.studies == []
    assert waiting.take(10, 100) == []


def test_oldest_file_is_known_even_if_it_rests_but_not_if_it_was_set_aside(
    tmp_path: Path, waiting: WaitingFiles
) -> None:
    resting, set_aside = put(tmp_path, 7, "1.2.3").name, put(tmp_path, 3, "1.2.3").name
    put(tmp_path, 9, "1.2.3")
    waiting.refresh({resting, set_aside}, {set_aside})
    assert waiting.oldest_at == 7
    for path in Spool(tmp_path).inbox.iterdir():
        path.unlink()
    waiting.refresh()
    assert waiting.oldest_at is None


def test_dispatchers_take_the_studies_of_a_backlog_in_turns(tmp_path: Path, waiting: WaitingFiles) -> None:
    for number in range(100):
        put(tmp_path, number, f"1.2.{number % 20}")
    waiting.refresh()
    batches = [waiting.take(10, 100) for _ in range(40)]

    assert sorted(path for batch in batches for path in batch) == sorted(Spool(tmp_path).inbox.iterdir())
    assert len({path.name.partition("-")[2][1] for path in batches[0]}) == 1


def test_backlog_of_two_slots_is_taken_from_the_oldest_study_on(tmp_path: Path, waiting: WaitingFiles) -> None:
    left = {number: put(tmp_path, number, f"1.2.{number}", slot=f"host-{number % 2}") for number in range(1, 300)}
    waiting.refresh()
    while left:
        taken = waiting.take(20, 10**9)
        assert taken[0] == left[min(left)]
        left = {number: path for number, path in left.items() if path not in taken}
        waiting.note_batch(len(taken), 0.1)


def test_batch_that_another_dispatcher_has_locked_is_followed_by_one_of_other_studies(
    tmp_path: Path, waiting: WaitingFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.random, "sample", lambda shards, _: shards[::-1])
    paths = [put(tmp_path, number, f"1.2.{number}") for number in range(1, 100)]
    waiting.refresh()
    first = waiting.take(1, 100)
    waiting.note_batch(0, 0.1)
    second = waiting.take(1, 100)
    waiting.note_batch(1, 0.1)
    assert [first, waiting.take(1, 100)] == [paths[:1], paths[1:2]]
    assert second[0] not in paths[:5]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Number of times that each file is read, by name."""
    counted: Counter[str] = Counter()
    read = module._read

    def count(path: Path) -> WaitingFile | None:
        counted[path.name] += 1
        return read(path)

    monkeypatch.setattr(module, "_read", count)
    return counted


def test_listing_reads_one_file_of_a_new_study_and_taking_reads_each_file_once(
    tmp_path: Path, waiting: WaitingFiles, reads: Counter[str]
) -> None:
    for number in range(2000):
        put(tmp_path, number, f"1.2.{number // 100}")
    for _ in range(3):
        waiting.refresh()
    assert reads.total() == 20

    stat = put(tmp_path, 9999, "1.2.stat", urgent=True)
    waiting.refresh()
    assert reads.total() == 21
    taken = waiting.take(20, 2**20)
    assert taken[0] == stat

    while taken:
        for path in taken:
            path.unlink()
        waiting.refresh()
        taken = waiting.take(200, 2**20)
    assert len(reads) == 2001
    assert max(reads.values()) == 2, "of those that were read for the order of the studies"
    assert reads.total() <= 2001 + 21


def test_listing_of_many_studies_reads_a_limited_number_of_files(
    tmp_path: Path, waiting: WaitingFiles, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_FILES", 10)
    stat = [put(tmp_path, number, f"1.2.{number}", urgent=number == 99) for number in range(100)][-1]
    waiting.refresh()
    assert reads.total() == 10
    assert waiting.take(20, 2**20)[0] == stat
    assert len(waiting.studies) == 98, "two were taken: three quarters of a batch are for urgent files"


def test_slow_listing_on_a_busy_machine_does_not_postpone_the_next_one(
    tmp_path: Path, waiting: WaitingFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LISTING_SECONDS", 0.05)
    names = module.received_in

    def slow(inbox: Path) -> Iterator[str]:
        time.sleep(0.2)
        yield from names(inbox)

    monkeypatch.setattr(module, "received_in", slow)
    put(tmp_path, 1, "1.2.3")
    waiting.refresh()
    time.sleep(0.15)
    assert waiting.is_due


def test_long_study_does_not_delay_the_next_one(
    tmp_path: Path, waiting: WaitingFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TURN_FILES", 10)
    long = [put(tmp_path, number, "1.2.1", urgent=True) for number in range(100)]
    short = [put(tmp_path, 200, "1.2.2", urgent=True)]
    waiting.refresh()
    taken = [path for _ in range(5) for path in waiting.take(14, 2**20)]
    assert short[0] in taken
    assert len(taken) < len(long)


def test_indexed_file_loses_the_tag(tmp_path: Path) -> None:
    assert file_name(put(tmp_path, 1, "1.2.3")) == f"{1:032x}.dcm"
