"""Engines, sessions and the schema's migrations."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

#: Seconds to wait for a TCP connection: longer than a slow server takes, shorter than a user waits.
CONNECT_SECONDS = 5
#: Connections of one process: worker slots and the API's threads, and some to spare.
POOL_SIZE = 20
#: Seconds for which a connection used last is not checked: a restart of the server takes longer.
UNCHECKED_SECONDS = 1.0
NOT_DURABLE = text("SET LOCAL synchronous_commit TO off")


@lru_cache(maxsize=8)
def engine(url: str) -> Engine:
    """Return the process's engine for *url*, whose connections survive a restart of the server."""
    made = create_engine(
        url,
        pool_size=POOL_SIZE,
        # The values of a row must not be in an error's text: they may be patient data.
        hide_parameters=True,
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )
    event.listen(made, "checkin", _note_use)
    event.listen(made, "checkout", _check_connection)
    return made


def _note_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _check_connection(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
    """Check a connection as `pool_pre_ping` does, except one used just now: under load that is most of them."""
    if time.monotonic() - record.info.get("used", 0) < UNCHECKED_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error as error:
        # The pool replaces the connection.
        raise DisconnectionError from error


@contextmanager
def transaction(url: str, *, durable: bool = True) -> Iterator[Session]:
    """Session whose work is committed at the end of the block, or rolled back by an exception.

    Without *durable* the commit does not wait for the disk: for rows that may be lost in a crash, such as heartbeats.
    """
    with Session(engine(url), expire_on_commit=False) as session, session.begin():
        if not durable:
            session.execute(NOT_DURABLE)
        yield session


@contextmanager
def statements(url: str) -> Iterator[Session]:
    """Session in which each statement is its own transaction: one round trip instead of three."""
    with Session(_autocommitting(url)) as session:
        yield session


@lru_cache(maxsize=8)
def _autocommitting(url: str) -> Engine:
    return engine(url).execution_options(isolation_level="AUTOCOMMIT")


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the schema to *revision*; does nothing if that is the current one.

    Raises ConfigurationError if a later version of Prelim has already upgraded it.
    """
    config = alembic_config(url)
    _refuse_newer(url, ScriptDirectory.from_config(config))
    command.upgrade(config, revision)


def _refuse_newer(url: str, scripts: ScriptDirectory) -> None:
    with engine(url).connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current is not None and current not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigurationError(
            f"the database schema is revision {current}, newer than this version of Prelim knows: install the version"
            " that upgraded it, or restore a backup made before the upgrade"
        )


def alembic_config(url: str) -> Config:
    """Alembic's configuration for the database at *url*."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    return config
