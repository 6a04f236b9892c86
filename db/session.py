"""The engine, and ``with transaction() as session``: leaving by an exception rolls back."""

from __future__ import annotations

import time
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.orm import Session

from db.environment import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.pool import ConnectionPoolEntry

#: Seconds to wait for a TCP connection; a dead database is noticed, a slow one survives.
CONNECT_SECONDS = 5
#: Most connections of one process: worker slots and the API's threads, with room to spare.
POOL_SIZE = 20
#: A connection used this many seconds ago is trusted: a server takes longer to come back.
TRUSTED_SECONDS = 1.0
NOT_DURABLE = text("SET LOCAL synchronous_commit TO off")


@lru_cache(maxsize=8)
def engine(url: str) -> Engine:
    """The one engine of this process for *url*; a server that was restarted meanwhile costs no failed run."""
    made = create_engine(
        url,
        pool_size=POOL_SIZE,
        # An error's text must not carry a row's values: they may be a patient's.
        hide_parameters=True,
        connect_args={"connect_timeout": CONNECT_SECONDS},
    )
    event.listen(made, "checkin", _note_use)
    event.listen(made, "checkout", _ask_whether_it_lives)
    return made


def _note_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _ask_whether_it_lives(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
    """`pool_pre_ping`, without its round trip for connections just used: that is most of them, when there is work."""
    if time.monotonic() - record.info.get("used", 0) < TRUSTED_SECONDS:
        return
    try:
        connection.execute("SELECT 1")
        connection.rollback()
    except psycopg.Error as error:
        # The pool puts another in its place.
        raise DisconnectionError from error


@contextmanager
def transaction(url: str | None = None, *, durable: bool = True) -> Iterator[Session]:
    """A session whose work is committed at the end of the block, or not at all.

    Not *durable* is for what a crash of Postgres may take back, such as signs of life: the commit does not wait for the
    disk. *url* defaults to the configured database. Raises ConfigurationError where none is configured.
    """
    with (
        Session(engine(url or load_settings().database()), expire_on_commit=False) as session,
        session.begin(),
    ):
        if not durable:
            session.execute(NOT_DURABLE)
        yield session


@contextmanager
def statements(url: str) -> Iterator[Session]:
    """A session in which each statement is a transaction of its own: one round trip where a transaction takes three."""
    with Session(_autocommitting(url)) as session:
        yield session


@lru_cache(maxsize=8)
def _autocommitting(url: str) -> Engine:
    return engine(url).execution_options(isolation_level="AUTOCOMMIT")


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the schema to *revision*; nothing happens if it is there already."""
    command.upgrade(alembic_config(url), revision)


def alembic_config(url: str) -> Config:
    """Alembic's configuration for the database at *url*."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = url
    return config
