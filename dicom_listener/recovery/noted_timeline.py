"""The timeline of the database whose rows name all files of a spool, noted in the spool."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import text

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

CURRENT = text("""
    SELECT system_identifier::text, substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) FROM pg_control_system()
""")


class Timeline(NamedTuple):
    """Identifier of a PostgreSQL cluster, the same on its standbys, and the number of its timeline in hex.

    A standby that is promoted begins a new timeline, and may lack what was committed last.
    """

    system: str
    number: str


def current_timeline(session: Session) -> Timeline:
    """Return the timeline that the server of *session* writes."""
    return Timeline(*session.execute(CURRENT).one())


def noted(path: Path) -> Timeline | None:
    """Return the timeline that a spool has noted in *path*."""
    try:
        return Timeline(*json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):  # none yet, or damaged by a crash
        return None


def touch(path: Path) -> None:
    """Note that the timeline is the same now."""
    os.utime(path)


def note(path: Path, current: Timeline) -> None:
    """Note in *path* that the rows of *current* name all files of the spool."""
    written = path.with_suffix(".new")
    written.write_text(json.dumps(current))
    written.replace(path)
