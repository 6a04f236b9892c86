"""The database whose rows name all files of a spool, and its timeline: noted in the spool."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

from db.errors import ConfigurationError
from dicom_listener.spool.durable import read_text, replace_text

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

CURRENT = text("""
    SELECT system_identifier::text, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8),
        (SELECT oid::text FROM pg_database WHERE datname = current_database())
    FROM pg_control_system()
""")


class Timeline(NamedTuple):
    """Identifier of a PostgreSQL cluster, number of its timeline in hex, and identifier of a database in it.

    The cluster and its standbys have the same identifier. A standby that is promoted begins a new timeline, and may
    lack what was committed last.
    """

    system: str
    number: str
    #: Empty if only an earlier release has noted the timeline.
    database: str = ""

    def is_same_database(self, other: Timeline) -> bool:
        """Return whether both are of one database, or of its standbys."""
        return (self.system, self.database) == (other.system, other.database)


def current_timeline(session: Session) -> Timeline:
    """Return the timeline that the server of *session* writes."""
    return Timeline(*session.execute(CURRENT).one())


def noted(path: Path) -> Timeline | None:
    """Return the timeline that a spool has noted in *path*; None without one.

    Raises ConfigurationError if the file is damaged, OSError if it cannot be read.
    """
    try:
        found = _texts(path)
    except FileNotFoundError:
        return None
    match found:
        case [system, number]:
            return Timeline(system, number, _database(path, system))
        case [_, _, _]:  # of a development version, which noted the database here
            return Timeline(*found)
    raise ConfigurationError(
        f"{path} is damaged, which notes the database of the stored files: delete it, and the rows of the database"
        " are compared with the files instead"
    )


def _database(path: Path, system: str) -> str:
    """Return the database in the cluster *system* that is noted beside *path*; empty without one."""
    try:
        found = _texts(_database_path(path))
    except FileNotFoundError:
        return ""
    match found:
        case [noted_system, _, database] if noted_system == system:
            return database
    return ""


def _database_path(path: Path) -> Path:
    return path.with_name(f"{path.stem}_database{path.suffix}")


def _texts(path: Path) -> list[str]:
    """Return the list of strings in a file, empty if it is damaged; raises OSError."""
    try:
        found = json.loads(read_text(path))
    except OSError as error:
        error.filename = str(path)
        raise
    except ValueError:  # of the JSON, or of its encoding
        return []
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else []


def noted_at(path: Path) -> float:
    """Return the time at which the noted timeline was seen last; raises OSError."""
    return path.stat().st_mtime


def touch(path: Path) -> None:
    """Note that the timeline is the same now."""
    os.utime(path)


def note(path: Path, current: Timeline, at: float | None = None) -> None:
    """Note in *path*, durably, that the rows of *current* name all files of the spool; seen *at*, without it now.

    The database is in a file of its own: a dispatcher of an earlier release, on the same spool during an upgrade, takes
    a note of three elements as a missing one, and then accepts any timeline without a search.
    """
    # In this order: killed in between, the note is of the earlier timeline, or of another cluster without a database.
    replace_text(_database_path(path), json.dumps(current))
    replace_text(path, json.dumps([current.system, current.number]), at)
