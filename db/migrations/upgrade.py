"""Upgrade the schema with Alembic."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from db.errors import ConfigurationError
from db.migrations import compatibility
from db.session import engine

log = structlog.get_logger()

#: Attempts of a migration to get its locks, and seconds between two of them: together about ten minutes.
MAX_ATTEMPTS = 120
PAUSE_SECONDS = 2
#: A lock that was not free, and the limits of a process that was suspended: the next attempt continues.
INTERRUPTIONS = (
    psycopg.errors.LockNotAvailable,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.IdleSessionTimeout,
)


def migrate(url: str, revision: str = "head") -> None:
    """Upgrade the schema to *revision*; does nothing if that is the current one.

    Waits for other transactions, up to MAX_ATTEMPTS times and without blocking them, and continues after a suspension
    of this process. A schema that a later version has upgraded is left as it is; raises ConfigurationError if this
    version does not run on it.
    """
    config = alembic_config(url)
    if _is_newer(url, ScriptDirectory.from_config(config)):
        log.warning("migration.newer_schema")
        return
    _note_oldest(url, revision)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            command.upgrade(config, revision)
        except OperationalError as error:
            if not isinstance(error.orig, INTERRUPTIONS) or attempt == MAX_ATTEMPTS:
                raise
            log.warning("migration.waiting", attempt=attempt)
            time.sleep(PAUSE_SECONDS)
        else:
            break
    _note_oldest(url, revision)


def _note_oldest(url: str, revision: str) -> None:
    """Note which processes run on the newest schema.

    Before the migrations, so that an interrupted one does not keep processes that no longer run on it, and after those
    of an empty database.
    """
    if revision == "head":
        with engine(url).begin() as connection:
            compatibility.note(connection)


def _is_newer(url: str, scripts: ScriptDirectory) -> bool:
    """Return whether the schema is newer than this version; raises ConfigurationError if it does not run on it."""
    known = {script.revision for script in scripts.walk_revisions()}
    with engine(url).connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
        if current is None or current in known:
            return False
        if compatibility.runs(connection, known):
            return True
    raise ConfigurationError(
        f"the database schema is revision {current}, newer than this version of Prelim: install the version"
        " that upgraded it, or restore a backup made before the upgrade"
    )


def alembic_config(url: str) -> Config:
    """Alembic's configuration for the database at *url*."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    return config
