"""Store the audit rows of responses before they are sent: many requests share one transaction.

The row of a request that changes data is stored in the transaction of its changes.

While a transaction is committed, the entries of other requests wait for the next one, so that the rate is not limited
by the disk. The limit of threads for routes does not apply: routes that wait for the database must not delay rows.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from typing import TYPE_CHECKING

from sqlalchemy.exc import OperationalError, SQLAlchemyError

from db.access.audit_log import Chain, Entry

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from db.settings import Settings

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

    def commit(self, session: Session, entry: Entry) -> None:
        """Commit the changes of *session* together with the row of *entry*; neither if it raises OperationalError."""
        # Errors of the changes are raised as they are.
        session.flush()
        try:
            self._chain.commit(session, [entry])
        except SQLAlchemyError as error:
            raise OperationalError(None, None, error) from error

    async def record(self, entry: Entry) -> None:
        """Return when the row of *entry* is stored durably; raises what the database raises."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        if loop in self._waiting:
            self._waiting[loop].append((entry, done))
        else:
            self._waiting[loop] = [(entry, done)]
            writer = loop.create_task(self._write(loop))
            self._writers.add(writer)
            writer.add_done_callback(self._writers.discard)
        await done

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


def _end(batch: _Waiting, error: Exception | None) -> None:
    for _, done in batch:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
