"""Server-sent events: each once, in order, resumable, of visible studies only."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from api.v1 import events, feed
from api.v1.feed import Feed, Place
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


READER = Principal("key", "a", frozenset())


async def taken(source: AsyncIterator[Published | Place], count: int) -> list[Published | Place]:
    return [await asyncio.wait_for(anext(source), 30) for _ in range(count)]


async def begun(source: AsyncIterator[Published | Place]) -> Place:
    place = (await taken(source, 1))[0]
    assert isinstance(place, Place)
    return place


def test_streams_get_every_event_once_and_a_client_resumes_where_it_stopped(own: Feed, arrivals: Arrivals) -> None:
    async def run() -> list[list[Published | Place]]:
        with own.stream("a"), own.stream("b"):
            first, second = own.events(None), own.events(None)
            places = [await begun(first), await begun(second)]
            await asyncio.to_thread(arrivals.reported)
            live = [await taken(source, 3) for source in (first, second)]
            resumed = await taken(own.events(live[0][0].position), 3)
            # As after a restart before the first event.
            from_start = await taken(own.events(places[0].position), 4)
        return [places, *live, resumed, from_start]

    places, one, other, resumed, from_start = asyncio.run(run())

    assert one == other
    assert resumed == [Place(one[0].position), *one[1:]]
    assert from_start == [places[0], *one]
    assert {event.kind for event in one if not isinstance(event, Place)} <= {"received", "state", "report"}
    assert [event.position for event in one] == sorted({event.position for event in one})


def test_streams_that_begin_at_the_same_moment_share_one_poller(own: Feed) -> None:
    """As all open work lists do after a restart; two pollers can send an event twice."""

    async def run() -> int:
        with own.stream("a"), own.stream("b"), own.stream("c"):
            await asyncio.gather(*(begun(own.events(None)) for _ in range(3)))
            pollers = [task for task in asyncio.all_tasks() if "Feed._poll" in repr(task)]
            for one in pollers:
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

    async def run(position: int) -> Place:
        with own.stream("a"):
            return await begun(own.events(position))

    newest = Place(last, missed=True)
    assert asyncio.run(run(last)) == newest, "older than the age up to which events are published"
    assert asyncio.run(run(10**9)) == newest, "a position of another database"
    assert events._encoded(newest, READER) == f"event: resync\ndata: {{}}\nid: {last}\n\n".encode()


def test_client_resumes_after_a_resync(own: Feed, arrivals: Arrivals) -> None:
    async def run() -> list[Published | Place]:
        with own.stream("a"):
            missed = await begun(own.events(10**9))
            await asyncio.to_thread(arrivals.queued)
            return [missed, *await taken(own.events(missed.position), 3)]

    missed, place, *behind = asyncio.run(run())

    assert (missed, place) == (Place(0, missed=True), Place(0))
    assert [event.kind for event in behind if not isinstance(event, Place)] == ["received", "state"]


def test_client_resumes_although_the_study_of_its_last_event_is_deleted(
    own: Feed, arrivals: Arrivals, database_url: str
) -> None:
    """As those of canaries are, soon after they were reported."""
    study, other = arrivals.receiving(), arrivals.receiving()
    with transaction(database_url) as session:
        history.publish(session)
        last = history.newest(session)
        session.execute(text("DELETE FROM study_events WHERE study_id = :other"), {"other": other})

    async def run() -> list[Place]:
        with own.stream("a"):
            return [await begun(own.events(position)) for position in (last - 1, last)]

    assert study != other
    assert asyncio.run(run()) == [Place(last - 1), Place(last)]


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
