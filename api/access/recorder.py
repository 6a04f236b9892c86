"""Store the audit rows of responses before they are sent: many requests share one transaction.

The row of a request that changes data is stored in the transaction of its changes.

While a transaction is committed, the entries of other requests wait for the next one, so that the rate is not limited
by the disk. The limit of threads for routes does not apply: routes that wait for the database must not delay rows.
"""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import weakref
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from api.access.anonymous_rows import WINDOW_SECONDS, AnonymousRows
from db.access.audit_log import Chain, Entry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.settings import Settings

log = structlog.get_logger()

#: An entry, and the end of its request's wait.
_Waiting = list[tuple[Entry, "asyncio.Future[None]"]]


class Recorder:
    """Recorder of one application; use it in event loops only."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._chain = Chain(f"{socket.gethostname()}:{os.getpid()}")
        #: By event loop: tests have several. A loop with a writer has its key here.
        self._waiting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting] = weakref.WeakKeyDictionary()
        self._writers: set[asyncio.Task[None]] = set()
        self._anonymous = AnonymousRows()
        #: Event loops that will write the rows of counted requests.
        self._timers: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def commit(self, session: Session, entry: Entry) -> None:
        """Commit the changes of *session* together with the row of *entry*; neither if it raises OperationalError."""
        # Errors of the changes are raised as they are.
        session.flush()
        try:
            self._chain.commit(session, [entry])
        except SQLAlchemyError as error:
            raise OperationalError(None, None, error) from error

    async def record(self, entry: Entry) -> None:
        """Return when the row of *entry* is stored durably, or it is counted; raises what the database raises."""
        loop = asyncio.get_running_loop()
        for row in self._anonymous.ended():
            self._store_counted(loop, row)
        if self._anonymous.counts(entry):
            self._start_timer(loop)
        else:
            await self._store(loop, entry)

    async def close(self) -> None:
        """Store the rows of the requests that are counted until now; without the database they are logged."""
        loop = asyncio.get_running_loop()
        stored = [self._store_counted(loop, row) for row in self._anonymous.ended(all_of_them=True)]
        await asyncio.gather(*stored, return_exceptions=True)

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop not in self._timers:
            self._timers.add(loop)
            loop.call_later(WINDOW_SECONDS, self._end_minutes, loop)

    def _end_minutes(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timers.discard(loop)
        for row in self._anonymous.ended():
            self._store_counted(loop, row)
        if self._anonymous.is_counting:
            self._start_timer(loop)

    def _store_counted(self, loop: asyncio.AbstractEventLoop, row: Entry) -> asyncio.Future[None]:
        stored = self._store(loop, row)
        stored.add_done_callback(functools.partial(_log_lost, row))
        return stored

    def _store(self, loop: asyncio.AbstractEventLoop, entry: Entry) -> asyncio.Future[None]:
        done = loop.create_future()
        if loop in self._waiting:
            self._waiting[loop].append((entry, done))
        else:
            self._waiting[loop] = [(entry, done)]
            writer = loop.create_task(self._write(loop))
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        return done

    async def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        while batch := self._waiting[loop]:
            self._waiting[loop] = []
            try:
                await asyncio.to_thread(self._append, [entry for entry, _ in batch])
            except Exception as error:  # noqa: BLE001 - each request of the batch gets it, and is answered with it
                _end(batch, error)
            else:
                _end(batch, None)
        del self._waiting[loop]

    def _append(self, entries: list[Entry]) -> None:
        self._chain.append(self._settings.database(), entries)


def _log_lost(row: Entry, stored: asyncio.Future[None]) -> None:
    """Log the number of requests that have no row, if the database was away when their minute ended."""
    if stored.cancelled() or stored.exception() is not None:
        log.warning("audit_log.counts_lost", address=row.address, **row.detail)


def _end(batch: _Waiting, error: Exception | None) -> None:
    for _, done in batch:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
