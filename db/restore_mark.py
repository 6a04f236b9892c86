"""The mark of a database whose restore was interrupted: it lacks files, or has patients who were erased since.

It is a schema without tables, made before anything is restored and dropped after the last step. No dump has it, and a
server on another machine keeps it as the embedded one does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import psycopg

SCHEMA = "prelim_restore"
FOUND = b"""
    SELECT coalesce(obj_description(oid, 'pg_namespace'), ''),
        EXISTS (SELECT FROM pg_tables WHERE schemaname = 'public')
    FROM pg_namespace WHERE nspname = %s
"""


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

    @property
    def refusal(self) -> str:
        """The cause and the command, for a process that must not use the database."""
        return f"{self.found}, and its database must not be used: {self.remedy}"


def read(connection: psycopg.Connection[Any]) -> Unfinished | None:
    """Return the restore of the database that is not complete; raises psycopg.Error."""
    found = connection.execute(FOUND, [SCHEMA]).fetchone()
    return None if found is None else Unfinished(*found)
