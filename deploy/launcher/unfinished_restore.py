"""Refuse a database whose restore was interrupted: it lacks files, or has patients who were erased since.

The mark is a schema without tables, made before anything is restored and dropped after the last step. No dump has it,
and a server on another machine keeps it as the embedded one does.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from db.errors import ConfigurationError
from db.session import SERVER, connect, engine

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from db.settings import Settings

SCHEMA = "prelim_restore"
FOUND = text("""
    SELECT coalesce(obj_description(oid, 'pg_namespace'), ''),
        EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public')
    FROM pg_namespace WHERE nspname = :schema
""")


class Unfinished(NamedTuple):
    """A restore that did not come to its end."""

    #: Name of the backup.
    backup: str
    has_tables: bool

    @property
    def found(self) -> str:
        """A sentence with the name of the backup."""
        return f"the restore of backup {self.backup} was interrupted"

    @property
    def remedy(self) -> str:
        """The command that continues it."""
        if self.has_tables:
            return "continue it with `prelim restore FOLDER --key-file FILE --finish`"
        return f"repeat it with `prelim restore FOLDER --key-file FILE --name {self.backup}`"


def begin(url: str, backup: str) -> None:
    """Mark the database, durably, until `end`; raises OperationalError, ConfigurationError."""
    schema = sql.Identifier(SCHEMA)
    _execute(
        url,
        sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(schema),
        sql.SQL("COMMENT ON SCHEMA {} IS {}").format(schema, sql.Literal(backup)),
    )


def end(url: str) -> None:
    """Remove the mark; raises OperationalError."""
    _execute(url, sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(SCHEMA)))


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


def read(session: Session | Connection) -> Unfinished | None:
    """Return the restore of this database that is not complete."""
    found = session.execute(FOUND, {"schema": SCHEMA}).one_or_none()
    return None if found is None else Unfinished(*found)


def refuse(settings: Settings) -> None:
    """Raise ConfigurationError, with the command that continues, if a restore of the database is not complete.

    A database that does not answer is no cause: the caller waits for it.
    """
    found = None
    with suppress(ConfigurationError, SQLAlchemyError):
        # Not the engine of the process, whose pool has the size that the process sets later.
        made = engine(settings.database(), SERVER)
        with made.connect() as connection:
            found = read(connection)
        made.dispose()
    if found is not None:
        raise ConfigurationError(f"{found.found}, and its database must not be used: {found.remedy}")
