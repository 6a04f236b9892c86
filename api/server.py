"""Serve the API and the page on one port (`prelim serve`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import uvicorn

from api.app import create_app

if TYPE_CHECKING:
    from db.settings import Settings

log = structlog.get_logger()

#: Seconds for unfinished responses at the stop; every response is short.
GRACE_SECONDS = 5


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; expects configured logging (db.logs)."""
    log.info("api.starting", host=settings.api.api_host, port=settings.api.api_port)
    uvicorn.run(
        create_app(settings),
        host=settings.api.api_host,
        port=settings.api.api_port,
        # Readers and the studies they read belong in an audit trail, not in a log.
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
