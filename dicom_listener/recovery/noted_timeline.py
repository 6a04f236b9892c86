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
    #: Empty if an earlier release noted the timeline.
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
        found = json.loads(read_text(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        error.filename = str(path)
        raise
    except ValueError:  # of the JSON, or of its encoding
        found = None
    if not isinstance(found, list) or len(found) not in (2, 3) or not all(isinstance(each, str) for each in found):
        raise ConfigurationError(
            f"{path} is damaged, which notes the database of the stored files: delete it, and the rows of the database"
            " are compared with the files instead"
        )
    return Timeline(*found)


def noted_at(path: Path) -> float:
    """Return the time at which the noted timeline was seen last; raises OSError."""
    return path.stat().st_mtime


def touch(path: Path) -> None:
    """Note that the timeline is the same now."""
    os.utime(path)


def note(path: Path, current: Timeline, at: float | None = None) -> None:
    """Note in *path*, durably, that the rows of *current* name all files of the spool; seen *at*, without it now."""
    replace_text(path, json.dumps(current), at)
