"""Run the server of the API and the page, on one port (`prelim serve`)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import structlog
import uvicorn

from api.app import create_app
from api.server.connections import BACKLOG, Connections, limited
from api.server.forking import Parent, ends_with_parent, listening
from api.server.heartbeat import Heartbeat
from db.errors import ConfigurationError
from db.session import limit_statements

if TYPE_CHECKING:
    from collections.abc import Callable
    from socket import socket

    from db.settings import Settings

log = structlog.get_logger()

#: Database connections of a process: a request needs one for a few milliseconds, and others wait.
CONNECTIONS = 10
#: Seconds for unfinished responses at the stop; every response is short.
GRACE_SECONDS = 5


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; expects configured logging (db.logs)."""
    if "FORWARDED_ALLOW_IPS" in os.environ:
        raise ConfigurationError("FORWARDED_ALLOW_IPS has no effect: set PRELIM_TRUSTED_PROXIES, and remove it")
    host, port, processes = settings.api.api_host, settings.api.api_port, settings.api.api_processes
    log.info("api.starting", host=host, port=port, processes=processes)
    if processes == 1:
        limit_statements(settings, connections=CONNECTIONS)
        uvicorn.Server(config(settings)).run()
        return
    orphaned = ends_with_parent(os.getpid())

    def serve(own: socket) -> None:
        limit_statements(settings, connections=CONNECTIONS)
        uvicorn.Server(config(settings, orphaned)).run([own])

    Parent(listening(host, port, processes), serve).run()


def config(settings: Settings, each_second: Callable[[], None] = lambda: None) -> uvicorn.Config:
    """Return the configuration of the server, with its limits and its heartbeat; *each_second* is called, too."""
    connections = Connections()
    heartbeat = Heartbeat(settings)

    async def tick() -> None:
        connections.sweep()
        heartbeat.tick()
        each_second()

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
        forwarded_allow_ips=[part.strip() for part in settings.api.trusted_proxies.split(",")],
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
