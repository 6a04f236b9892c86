"""Write the heartbeat of the API."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from db.errors import ConfigurationError
from db.operations import heartbeats
from db.session import transaction

if TYPE_CHECKING:
    from db.settings import Settings


class Heartbeat:
    """Heartbeat of one server, written by a thread so that a slow database does not delay requests."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._due = 0.0
        self._writing: asyncio.Task[None] | None = None

    def tick(self) -> None:
        """Start to write the heartbeat if it is due and none is being written; call it from the event loop."""
        if time.monotonic() >= self._due and (self._writing is None or self._writing.done()):
            self._due = time.monotonic() + heartbeats.INTERVAL_SECONDS
            self._writing = asyncio.create_task(asyncio.to_thread(self.write))

    def write(self) -> None:
        """Write the heartbeat; a database that cannot be reached is not logged here, but by db.session."""
        try:
            with transaction(self._settings.database(), durable=False) as session:
                heartbeats.record(session, heartbeats.Role.API)
        except (SQLAlchemyError, ConfigurationError):
            return
