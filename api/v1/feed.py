"""Feed of published events: one query a second for all streams of a process, and none without a stream."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import contextmanager
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import structlog
from sqlalchemy.exc import SQLAlchemyError

from db.errors import ConfigurationError
from db.operations import history
from db.session import transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from db.operations.history import Published
    from db.settings import Settings

log = structlog.get_logger()

#: Seconds between two queries.
POLL_SECONDS = 1.0
#: Events kept for streams that are slow.
KEPT = 10_000
#: Streams of one caller in one process: a reading room may share a key.
MAX_STREAMS = 600


class Place(NamedTuple):
    """Position in the feed from which a stream goes on; *missed*: events before it are missing."""

    position: int
    missed: bool = False


class Feed:
    """Feed of one application; use it in its event loop only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._events: deque[Published] = deque(maxlen=KEPT)
        self._position = 0
        #: Replaced at each new event, so that all streams wake up.
        self._news = asyncio.Event()
        self._streams: Counter[str] = Counter()
        self._poller: asyncio.Task[None] | None = None
        #: Held while the poller is started: two of them would send each event twice.
        self._starting = asyncio.Lock()

    def is_full(self, caller: str) -> bool:
        """Return whether *caller* may have no further stream."""
        return self._streams[caller] >= MAX_STREAMS

    @contextmanager
    def stream(self, caller: str) -> Iterator[None]:
        """Count a stream of *caller*; the feed reads events while there is one."""
        self._streams[caller] += 1
        try:
            yield
        finally:
            self._streams[caller] -= 1
            self._streams += Counter()

    async def events(self, last: int | None) -> AsyncIterator[Published | Place]:
        """Yield a place, and the events behind it: *last*, or the newest one. Another place where some are missing.

        Ends never.
        """
        await self._start()
        place = Place(self._position if last is None else last)
        missed = None if last is None else await asyncio.to_thread(self._missed, last)
        if last is not None and missed is None:
            place = Place(self._position, missed=True)
        yield place
        position = place.position
        for event in missed or ():
            yield event
            position = event.position
        while True:
            news = self._news
            if self._events and position < self._events[0].position - 1 and len(self._events) == KEPT:
                place = Place(self._position, missed=True)
                yield place
                position = place.position
            for event in self._behind(position):
                yield event
                position = event.position
            await news.wait()

    def _behind(self, position: int) -> list[Published]:
        """Return the kept events behind *position*: from the end, because a stream lacks few of many."""
        return [*takewhile(lambda event: event.position > position, reversed(self._events))][::-1]

    async def _start(self) -> None:
        """Start the poller, from the newest event, unless it runs."""
        async with self._starting:
            if self._poller is None or self._poller.done():
                self._events.clear()
                self._position = await asyncio.to_thread(self._newest)
                self._poller = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while self._streams.total():
            try:
                found = await asyncio.to_thread(self._published)
            except (SQLAlchemyError, ConfigurationError):
                # db.session logs the outage; the streams go on after it.
                found = []
            if found:
                self._events.extend(found)
                self._position = found[-1].position
                self._news.set()
                self._news = asyncio.Event()
            await asyncio.sleep(POLL_SECONDS)

    def _published(self) -> list[Published]:
        with transaction(self._settings.database(), durable=False) as session:
            history.publish(session)
        return self._since(self._position)

    def _missed(self, last: int) -> list[Published] | None:
        """Return the events behind *last*; None if they are too many, or too old."""
        with transaction(self._settings.database(), durable=False) as session:
            history.publish(session)
        with transaction(self._settings.database()) as session:
            found = history.since(session, last)
            complete = len(found) < history.BATCH and history.is_complete_since(session, last)
        return found if complete else None

    def _since(self, position: int) -> list[Published]:
        with transaction(self._settings.database()) as session:
            return history.since(session, position)

    def _newest(self) -> int:
        with transaction(self._settings.database()) as session:
            return history.newest(session)
