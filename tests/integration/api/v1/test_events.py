"""Server-sent events: each once, in order, resumable, of visible studies only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api.v1 import events, feed
from api.v1.feed import Feed
from db.access.principals import Principal
from db.operations import history
from db.session import transaction
from db.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from db.operations.history import Published
    from tests.integration.api.arrivals import Arrivals


@pytest.fixture
def own(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Feed:
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.05)
    return Feed(Settings(data_dir=tmp_path, database_url=SecretStr(database_url)))


async def taken(source: AsyncIterator[Published | None], count: int) -> list[Published | None]:
    return [await asyncio.wait_for(anext(source), 30) for _ in range(count)]


def test_streams_get_every_event_once_and_a_client_resumes_where_it_stopped(own: Feed, arrivals: Arrivals) -> None:
    async def run() -> list[list[Published | None]]:
        with own.stream("a"), own.stream("b"):
            first, second = own.events(None), own.events(None)
            pending = [asyncio.ensure_future(taken(source, 3)) for source in (first, second)]
            await asyncio.sleep(0.3)
            await asyncio.to_thread(arrivals.reported)
            live = [await each for each in pending]
            assert live[0][0] is not None
            resumed = await taken(own.events(live[0][0].position), 2)
        return [*live, resumed]

    one, other, resumed = asyncio.run(run())

    assert one == other
    assert resumed == one[1:]
    assert {event.kind for event in one if event} <= {"received", "state", "report"}
    assert [event.position for event in one if event] == sorted({event.position for event in one if event})


def test_streams_that_begin_at_the_same_moment_share_one_poller(own: Feed) -> None:
    """As all open work lists do after a restart; two pollers can send an event twice."""

    async def run() -> int:
        with own.stream("a"), own.stream("b"), own.stream("c"):
            pending = [asyncio.ensure_future(anext(own.events(None))) for _ in range(3)]
            await asyncio.sleep(0.3)
            pollers = [task for task in asyncio.all_tasks() if "Feed._poll" in repr(task)]
            for one in (*pending, *pollers):
                one.cancel()
        return len(pollers)

    assert asyncio.run(run()) == 1


def test_client_that_missed_too_much_gets_one_resync(own: Feed, arrivals: Arrivals, database_url: str) -> None:
    arrivals.queued()
    with transaction(database_url) as session:
        history.publish(session)
        last = history.newest(session)
    arrivals.queued()
    with transaction(database_url) as session:
        session.execute(text("UPDATE study_events SET at = now() - interval '2 hours' WHERE position IS NULL"))

    async def run(position: int) -> Published | None:
        with own.stream("a"):
            return (await taken(own.events(position), 1))[0]

    assert asyncio.run(run(last)) is None, "older than the age up to which events are published"
    assert asyncio.run(run(10**9)) is None, "a position of another database"


def test_event_of_an_invisible_study_is_not_sent(arrivals: Arrivals, database_url: str) -> None:
    study = arrivals.queued(patient_name="Doe^Jane")
    arrivals.sent_by("NORTH", study)
    with transaction(database_url) as session:
        history.publish(session)
        event = history.since(session, 0)[0]
    arrivals.late_image(study, ae_title="SOUTH")
    with transaction(database_url) as session:
        mixed = history.since(session, 0)[0]
    north, south = (Principal("key", "a", frozenset(), frozenset([title])) for title in ("NORTH", "SOUTH"))

    assert events._encoded(event, south) == b""
    assert events._encoded(mixed, north) == b"", "an object of another sender has arrived"
    sent = events._encoded(event, north).decode()
    assert str(study) in sent
    assert "Doe" not in sent
