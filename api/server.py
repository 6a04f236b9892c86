"""`prelim serve`: the API and the page on one port."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
import uvicorn

from api.app import create_app

if TYPE_CHECKING:
    from db.settings import Settings

log = structlog.get_logger()

#: Seconds an answer in the making gets at the stop; every answer of ours is short.
GRACE_SECONDS = 5


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; the process has set up its logging before (db.logs)."""
    log.info("api.starting", host=settings.api.api_host, port=settings.api.api_port)
    uvicorn.run(
        create_app(settings),
        host=settings.api.api_host,
        port=settings.api.api_port,
        # Who looked at which study belongs into an audit trail, not into a log.
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
