"""Earlier releases whose processes run on the newest schema, so that an upgrade need not stop them.

The schema carries the oldest revision in a comment: a program of an earlier release does not know the later migrations,
and cannot tell from their number whether it may run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import Connection

#: Revision of the release before: later migrations add only what its statements need not name
#: (tests/integration/db/test_earlier_release.py).
OLDEST = "0047"
_PREFIX = "oldest revision whose processes run on this schema: "
# NULL without the table.
_READ = text("SELECT obj_description(to_regclass('alembic_version'), 'pg_class')")
_HAS_TABLE = text("SELECT to_regclass('alembic_version') IS NOT NULL")
# A constant: COMMENT takes no parameters.
_WRITE = text(f"COMMENT ON TABLE alembic_version IS '{_PREFIX}{OLDEST}'")


def note(connection: Connection) -> None:
    """Write OLDEST to a schema, unless it is there."""
    if connection.scalar(_HAS_TABLE) and connection.scalar(_READ) != f"{_PREFIX}{OLDEST}":
        connection.execute(_WRITE)


def runs(connection: Connection, known: Collection[str]) -> bool:
    """Return whether a program that knows the revisions *known* runs on a schema that is newer than all of them."""
    comment: str | None = connection.scalar(_READ)
    return comment is not None and comment.startswith(_PREFIX) and comment.removeprefix(_PREFIX) in known
