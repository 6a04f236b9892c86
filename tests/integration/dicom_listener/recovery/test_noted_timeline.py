"""The note of the database of a spool: two files, of which dispatchers of earlier releases read and write one."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, NamedTuple

import pytest
from sqlalchemy import text

from db.models import Instance
from db.session import reading, transaction
from dicom_listener.indexing import indexer
from dicom_listener.recovery import noted_timeline, row_recovery
from dicom_listener.recovery.row_recovery import RowRecovery
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received
from tests.integration.dicom_listener.indexing.spool_rows import rows
from tests.integration.dicom_listener.objects import image, receive

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from dicom_listener.recovery.noted_timeline import Timeline


class EarlierTimeline(NamedTuple):
    """The timeline as the release before noted it."""

    system: str
    number: str


def read_as_earlier(path: Path) -> EarlierTimeline | None:
    """Read the note as the release before did; without one, it accepts any timeline without a search."""
    try:
        return EarlierTimeline(*json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_as_earlier(path: Path, timeline: EarlierTimeline) -> None:
    written = path.with_suffix(".new")
    written.write_text(json.dumps(timeline))
    written.replace(path)


@pytest.fixture
def note(settings: Settings) -> Path:
    """The note of the timeline, which is not there yet."""
    return Spool(settings.spool).timeline


@pytest.fixture
def current(settings: Settings) -> Timeline:
    with reading(settings.database()) as session:
        return noted_timeline.current_timeline(session)


@pytest.fixture
def recovery(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> RowRecovery:
    monkeypatch.setattr(row_recovery, "CHECK_SECONDS", 0)
    return RowRecovery(settings, threading.Event())


def test_dispatcher_of_the_release_before_reads_the_timeline(
    note: Path, recovery: RowRecovery, current: Timeline
) -> None:
    recovery.run_once()

    assert read_as_earlier(note) == (current.system, current.number)
    assert noted_timeline.noted(note) == current


def test_dispatcher_of_the_release_before_keeps_the_database(note: Path, current: Timeline) -> None:
    noted_timeline.note(note, current)
    write_as_earlier(note, EarlierTimeline(current.system, "000000FF"))

    assert noted_timeline.noted(note) == current._replace(number="000000FF")


def test_rows_lost_at_a_failover_during_an_upgrade_are_found(
    settings: Settings, note: Path, recovery: RowRecovery, current: Timeline
) -> None:
    """Of two dispatchers, the one of the release before has noted the timeline before the failover."""
    receive(settings, image())
    indexer.run_once(settings)
    noted_timeline.note(note, current._replace(number="000000FE"))
    write_as_earlier(note, EarlierTimeline(current.system, "000000FF"))
    with transaction(settings.database()) as session:
        session.execute(text("TRUNCATE instances, jobs, studies CASCADE"))
    recovery.run_once()

    assert len(list(received(Spool(settings.spool)))) == 1
    indexer.run_once(settings)
    recovery.run_once()
    assert len(rows(settings, Instance)) == 1
    assert noted_timeline.noted(note) == current
    assert read_as_earlier(note) == current[:2]


def test_note_of_a_development_version_becomes_readable_for_the_release_before(
    note: Path, recovery: RowRecovery, current: Timeline
) -> None:
    note.write_text(json.dumps(current))
    assert noted_timeline.noted(note) == current
    recovery.run_once()

    assert read_as_earlier(note) == (current.system, current.number)
    assert noted_timeline.noted(note) == current


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'["1", "2"]', b'["another cluster", "00000001", "5"]'])
def test_database_that_is_not_noted_is_compared(note: Path, content: bytes, current: Timeline) -> None:
    noted_timeline.note(note, current)
    note.with_name("timeline_database.json").write_bytes(content)

    assert noted_timeline.noted(note) == current._replace(database="")
