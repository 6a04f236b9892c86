"""Run the server of the API and the page, on one port (`prelim serve`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import uvicorn

from api.app import create_app
from api.server.connections import BACKLOG, Connections, limited
from api.server.heartbeat import Heartbeat
from db.session import limit_statements

if TYPE_CHECKING:
    from db.settings import Settings

log = structlog.get_logger()

#: Database connections: a request needs one for a few milliseconds, and others wait.
CONNECTIONS = 10
#: Seconds for unfinished responses at the stop; every response is short.
GRACE_SECONDS = 5


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; expects configured logging (db.logs)."""
    limit_statements(settings, connections=CONNECTIONS)
    log.info("api.starting", host=settings.api.api_host, port=settings.api.api_port)
    uvicorn.Server(config(settings)).run()


def config(settings: Settings) -> uvicorn.Config:
    """Return the configuration of the server, with its limits and its heartbeat."""
    connections = Connections()
    heartbeat = Heartbeat(settings)

    async def tick() -> None:
        connections.sweep()
        heartbeat.tick()

    return uvicorn.Config(
        create_app(settings),
        host=settings.api.api_host,
        port=settings.api.api_port,
        http=limited(connections),
        ws="none",
        loop="asyncio",
        backlog=BACKLOG,
        # Called by the event loop: if it is blocked, the heartbeat ends. Once a second.
        callback_notify=tick,
        timeout_notify=0,
        # Readers and the studies they read belong in an audit trail, not in a log.
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
