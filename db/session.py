"""Engines and sessions: limits for every statement, reconnection after a failover.

A database is *unavailable* while it cannot be reached, restarts, hangs or is read-only (a demoted primary). Every such
error is an OperationalError: the caller tries again. The session it happened in and, if the server is another one now,
all pooled sessions are dropped, so that the next attempt connects to the server that accepts writes.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import psycopg
import structlog
from sqlalchemy import create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from db import restore_mark
from db.connection import CONNECT_ARGUMENTS, closed_on_failure, opened
from db.limits import SessionLimits
from db.made_once import MadeOnce

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sqlalchemy import CursorResult, Engine, Select
    from sqlalchemy.engine.interfaces import DBAPIConnection, ExceptionContext
    from sqlalchemy.pool import ConnectionPoolEntry

    from db.connection import Connection
    from db.settings import Settings

log = structlog.get_logger()

#: Connections of a command's pool, at most; those of a server are named at its start.
POOL_SIZE = 20
#: Seconds to wait for a connection of a pool that is in use completely.
POOL_SECONDS = 5
#: Seconds for which a connection used last is not checked: a restart takes longer.
UNCHECKED_SECONDS = 1.0
#: Seconds for the answer of an idle connection before it is used again.
CHECK_SECONDS = 2
#: SQLSTATEs of a write to a demoted server, and of a session that the server has ended at a limit.
ENDED_SESSION = frozenset(("25006", "25P03", "25P04"))
#: Exit status of a process that the operator must help first, as of every ConfigurationError.
EXIT_CONFIGURATION = 2
READ_ONLY = text("SET TRANSACTION READ ONLY")
NOT_DURABLE = text("SET LOCAL synchronous_commit TO off")

#: Limits of a dispatcher, worker, API or command. A client that does not respond keeps its locks until the limit of
#: idle transactions, or of all transactions, so that it delays the others by at most 10 s.
SERVER = SessionLimits(statement=8, lock=3, idle=5)
#: Limits of a command that reads, for minutes if necessary: it locks no row.
READING = SessionLimits(statement=300, lock=5, idle=10)


class _Process:
    """Limits of this process, and the outage of its database, which is logged once when it begins and when it ends."""

    def __init__(self) -> None:
        self.limits = SERVER
        self.connections = POOL_SIZE
        #: True in a server, from its start; False in a command.
        self.is_server = False
        self._lock = threading.Lock()
        self._since: float | None = None
        self._failures = 0

    def failed(self, error: BaseException) -> None:
        """Count an error of an unavailable database; log the first one, by its type: its text may hold a password."""
        with self._lock:
            self._failures += 1
            begins, self._since = self._since is None, self._since or time.monotonic()
        if begins:
            log.warning("database.unreachable", error=type(error).__name__)

    def succeeded(self) -> None:
        """Note a completed transaction; log the end of an outage."""
        if self._since is None:
            return
        with self._lock:
            since, self._since, failures, self._failures = self._since, None, self._failures, 0
        if since is not None:
            log.info("database.reachable", seconds=round(time.monotonic() - since, 1), failures=failures)


_process = _Process()


def note_failure(error: BaseException) -> None:
    """Note an error of an unavailable database that occurred outside of a transaction."""
    _process.failed(error)


def limit_statements(settings: Settings, *, connections: int = POOL_SIZE) -> None:
    """Limit the statements and the pooled connections of this process, a server; call it once at the start.

    Without it, a statement has the time of SERVER. A server ends, with status 2, when it connects to a database whose
    restore is not complete: at its start, the database may not have answered yet.
    """
    _process.is_server = True
    _process.connections = connections
    _process.limits = replace(SERVER, statement=settings.operations.statement_seconds)


@MadeOnce
def engine(url: str, limits: SessionLimits | None = None) -> Engine:
    """Return the engine for *url*; its connections survive a failover. *limits* replace those of the process."""
    made = create_engine(
        url,
        pool_size=_process.connections,
        # The number of connections of an installation must be known: docs/deploy.md has the sum.
        max_overflow=0,
        # The connection used last needs no check, and the server has planned its statements.
        pool_use_lifo=True,
        pool_timeout=POOL_SECONDS,
        # The values of a row must not be in an error's text: they may be patient data.
        hide_parameters=True,
    )
    event.listen(made, "do_connect", lambda _dialect, _record, _args, given: _connected(url, given, limits))
    event.listen(made, "connect", _note_use)
    event.listen(made, "checkin", _note_use)
    event.listen(made, "checkout", _check_connection)
    event.listen(made, "handle_error", _classify)
    return made


def _connected(url: str, given: Mapping[str, Any], limits: SessionLimits | None) -> Connection:
    connection = opened(url, given, limits or _process.limits)
    if _process.is_server:
        with closed_on_failure(connection):
            _require_complete(connection)
    return connection


def _require_complete(connection: Connection) -> None:
    """End the process if the restore of the database was interrupted: patients who were erased since may be in it.

    Before the first statement of any thread: an exception would only be logged by most of them.
    """
    found = restore_mark.read(connection)
    connection.rollback()
    if found is not None:
        log.critical("database.restore_unfinished", problem=found.refusal)
        os._exit(EXIT_CONFIGURATION)


def driver_connection(session: Session) -> Connection:
    """Return the connection of the transaction of *session*."""
    return cast("Connection", session.connection().connection.driver_connection)


def connect(url: str) -> Connection:
    """Return a new connection in autocommit mode, outside of the pool; raises psycopg.Error."""
    # Without `engine`: the first call of it makes the pool, whose size `limit_statements` may not have set yet.
    parsed = make_url(url)
    connection = opened(url, parsed.get_dialect()().create_connect_args(parsed)[1], _process.limits)
    connection.autocommit = True
    return connection


def _note_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _check_connection(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
    """Check a connection as `pool_pre_ping` does, except one used just now: under load that is most of them."""
    if time.monotonic() - record.info.get("used", 0) < UNCHECKED_SECONDS:
        return
    made = cast("Connection", connection)
    answer_seconds, made.answer_seconds = made.answer_seconds, CHECK_SECONDS
    try:
        demoted = _became_read_only(made)
    except psycopg.Error as error:
        # The pool replaces the connections.
        raise InvalidatePoolError from error
    if demoted:
        raise InvalidatePoolError
    made.answer_seconds = answer_seconds


def _became_read_only(connection: Connection) -> bool:
    """Return whether a connection to a server that accepted writes is read-only now: the server was demoted."""
    row = connection.execute("SHOW transaction_read_only").fetchone()
    connection.rollback()
    wanted = connection.info.get_parameters().get("target_session_attrs")
    return row == ("on",) and wanted == CONNECT_ARGUMENTS["target_session_attrs"]


def _classify(context: ExceptionContext) -> OperationalError | None:
    """Make an error of an unavailable database an OperationalError, and drop the sessions with that server.

    A statement that waited too long is an OperationalError without `connection_invalidated`.
    """
    error = context.original_exception
    if not isinstance(error, psycopg.Error):
        return None
    if context.connection is not None and not context.is_disconnect and error.sqlstate not in ENDED_SESSION:
        return None
    # Sets `connection_invalidated` of the error, too.
    context.is_disconnect = True
    _process.failed(error)
    if isinstance(context.sqlalchemy_exception, OperationalError):
        return None
    return OperationalError(context.statement, None, error, hide_parameters=True, connection_invalidated=True)


@contextmanager
def transaction(url: str, *, durable: bool = True) -> Iterator[Session]:
    """Session whose work is committed at the end of the block, or rolled back by an exception.

    Without *durable* the commit does not wait for the disk: for rows that may be lost in a crash, such as heartbeats.
    Raises OperationalError if the database is unavailable.
    """
    with _observed(), Session(engine(url), expire_on_commit=False) as session, session.begin():
        if not durable:
            session.execute(NOT_DURABLE)
        yield session


@contextmanager
def reading(url: str) -> Iterator[Session]:
    """Session of a command that only reads, for minutes if necessary; see `transaction`."""
    with transaction(url) as session:
        session.execute(READ_ONLY)
        connection = driver_connection(session)
        usual = connection.answer_seconds
        # The time of a transaction that has begun is limited anew only if it has no limit in between.
        for limits in (SessionLimits(0, 0, 0), READING):
            connection.limit(limits, local=True)
        try:
            yield session
        finally:
            connection.answer_seconds = usual


@contextmanager
def statements(url: str) -> Iterator[Session]:
    """Session in which each statement is its own transaction: one round trip instead of three."""
    with _observed(), Session(_autocommitting(url), expire_on_commit=False) as session:
        yield session


def compiled(query: Select[*tuple[Any, ...]]) -> Callable[..., CursorResult[Any]]:
    """Return a function that executes a query, compiled once, with values of its `bindparam`s, which default to None.

    No column type converts a value. SQLAlchemy finds a large query in its cache slower than the server executes it.
    """
    dialect = postgresql.psycopg.dialect()  # type: ignore[no-untyped-call]
    made = query.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
    sql, parameters = str(made), made.params
    return lambda session, **values: session.connection().exec_driver_sql(sql, {**parameters, **values})


@contextmanager
def _observed() -> Iterator[None]:
    try:
        yield
    except PoolTimeout as error:
        raise OperationalError(None, None, error) from error
    _process.succeeded()


@lru_cache(maxsize=8)
def _autocommitting(url: str) -> Engine:
    return engine(url).execution_options(isolation_level="AUTOCOMMIT")
