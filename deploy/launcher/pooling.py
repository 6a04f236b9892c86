"""Refuse a connection pooler that shares the sessions of PostgreSQL, as PgBouncer does in its transaction mode.

LISTEN, the limits of a session and advisory locks would be lost there without an error.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import structlog

from db.errors import ConfigurationError
from db.session import connect

if TYPE_CHECKING:
    from db.settings import Settings

log = structlog.get_logger()

#: A shared session shows itself in the first round, unless the pooler has many idle ones.
ROUNDS = 5
#: A busy server may not answer in time once: it is not unreachable.
ATTEMPTS = 3


def refuse_shared_sessions(settings: Settings) -> None:
    """Raise ConfigurationError if a pooler shares sessions; a database that cannot be reached is not checked."""
    if settings.operations.database_url is None:
        return
    if _is_shared(settings.database()):
        raise ConfigurationError(
            "PRELIM_DATABASE_URL: a connection pooler shares the sessions of this database (transaction mode), so"
            " LISTEN and limits of sessions are lost: set `pool_mode = session` for it, or name PostgreSQL itself"
        )


def _is_shared(url: str) -> bool:
    for _ in range(ATTEMPTS):
        with suppress(psycopg.Error):
            return is_shared(url)
    log.warning("database.pooler_not_checked", remedy="`prelim doctor` checks it once the database can be reached")
    return False


def is_shared(url: str) -> bool:
    """Return whether a session has different servers, or its server another session; raises psycopg.Error."""
    with connect(url) as first:
        if _server_process(first) == first.info.backend_pid:
            return False  # a pooler sends process ids of its own
        with connect(url) as second:
            return any(_share(first, second) for _ in range(ROUNDS))


def _share(first: psycopg.Connection[object], second: psycopg.Connection[object]) -> bool:
    before = _server_process(first)
    # Of two servers used in turn, the first session would have this one again while the second holds the other.
    if _server_process(first) != before:
        return True
    with second.transaction():
        return _server_process(second) == before or _server_process(first) != before


def _server_process(connection: psycopg.Connection[object]) -> int:
    """Return the process of the server that carries out the next transaction."""
    row = connection.execute("SELECT pg_backend_pid()").fetchone()
    return int(str(row[0])) if isinstance(row, tuple) else 0
