"""Mark a database while a backup is restored into it, and refuse one whose restore was interrupted."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql
from sqlalchemy.exc import OperationalError

from db import restore_mark
from db.errors import ConfigurationError
from db.session import connect

if TYPE_CHECKING:
    from db.restore_mark import Unfinished
    from db.settings import Settings


def begin(url: str, backup: str) -> None:
    """Mark the database, durably, until `end`; raises OperationalError, ConfigurationError."""
    schema = sql.Identifier(restore_mark.SCHEMA)
    _execute(
        url,
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema),
        sql.SQL("COMMENT ON SCHEMA {} IS {}").format(schema, sql.Literal(backup)),
    )


def end(url: str) -> None:
    """Remove the mark; raises OperationalError."""
    _execute(url, sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(restore_mark.SCHEMA)))


def _execute(url: str, *statements: sql.Composed) -> None:
    try:
        with connect(url) as connection, connection.transaction():
            for statement in statements:
                connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigurationError(
            "the user of the database may not create a schema in it: `ALTER DATABASE ... OWNER TO` that user"
        ) from error
    except psycopg.Error as error:
        raise OperationalError(None, None, error) from error


def read(url: str) -> Unfinished | None:
    """Return the restore of a database that is not complete; raises psycopg.Error, ConfigurationError."""
    with connect(url) as connection:
        return restore_mark.read(connection)


def refuse(settings: Settings) -> None:
    """Raise ConfigurationError, with the command that continues, if a restore of the database is not complete.

    A database that does not answer is no cause: a server reads the mark again when it connects (db.session).
    """
    found = None
    with suppress(ConfigurationError, psycopg.Error):
        found = read(settings.database())
    if found is not None:
        raise ConfigurationError(found.refusal)
