"""The order in which waiting files are indexed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from db.studies.settling import study_key
from dicom_listener.spool.durable import Spool, file_name
from dicom_listener.spool.waiting import WaitingFiles, tag

if TYPE_CHECKING:
    from pathlib import Path


def put(root: Path, number: int, study: str = "", *, urgent: bool = False, size: int = 1) -> Path:
    """Put a file into the inbox that was received *number* seconds after the epoch."""
    tagged = tag(study_key(study), urgent=urgent) if study else ""
    inbox = Spool(root).inbox
    inbox.mkdir(exist_ok=True)
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


def test_indexed_file_loses_the_tag(tmp_path: Path) -> None:
    assert file_name(put(tmp_path, 1, "1.2.3")) == f"{1:032x}.dcm"
