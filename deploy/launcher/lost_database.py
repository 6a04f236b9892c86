"""Refuse an empty database beside files of studies: another one had their reports.

A wrong URL, a deleted volume and an image of another major version of PostgreSQL, which begins a new data folder beside
the old one, all look like a first start.
"""

from __future__ import annotations

from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

from alembic.runtime.migration import MigrationContext
from sqlalchemy import exists, or_, select

from db.errors import ConfigurationError
from db.models import FileDeletion, Study
from db.session import reading
from db.storage.errors import Unavailable
from dicom_listener.recovery import database_match, noted_timeline
from dicom_listener.recovery.database_match import Match
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from dicom_listener.recovery.noted_timeline import Timeline

REMEDY = (
    "name the database that was used until now, or `prelim restore` a backup. If its reports are to be given up:"
    " `prelim migrate --new-database`, with embedded servers `prelim up --new-database`"
)
REMEDY_OF_FILES = (
    "mount the data directory that was used until now (PRELIM_DATA_DIR; objects that were moved are in"
    " PRELIM_STORAGE_URL), name its database, or `prelim restore` a backup. If the files are to be given up:"
    " `prelim migrate --new-database`"
)


def refuse_lost_database(settings: Settings, *, needs_files: bool = False, needs_storage: bool = False) -> None:
    """Raise ConfigurationError if the database is not the one of the stored files of studies.

    It has no tables, or names none of these files, and is not noted in the spool as theirs; with *needs_files*, also if
    it names files, and none are stored. Files of the inbox do not count: the listener needs no database. Raises
    StorageError, OSError, SQLAlchemyError. While the object storage cannot be reached, no comparison with its objects
    is made, unless it *needs_storage*: Unavailable is raised then.
    """
    path = Spool(settings.spool).timeline
    noted = noted_timeline.noted(path)
    with reading(settings.database()) as session:
        has_tables = MigrationContext.configure(session.connection()).get_current_revision() is not None
        is_noted = noted is not None and noted.is_same_database(noted_timeline.current_timeline(session))
    if not has_tables and (place := database_match.stored(settings)):
        raise ConfigurationError(f"the database is empty, but {place} has files of studies: {REMEDY}")
    # Without the object storage, the dispatcher waits for it and compares then: an upgrade does not.
    if has_tables and not is_noted:
        with nullcontext() if needs_storage else suppress(Unavailable):
            _refuse_other_database(settings, path, noted, needs_files=needs_files)


def _refuse_other_database(settings: Settings, path: Path, noted: Timeline | None, *, needs_files: bool) -> None:
    """Raise ConfigurationError if a database is not the *noted* one, and does not match the stored files."""
    if noted is None:
        found, cause = database_match.compare(settings), f"{path}, which notes the database of the files, is missing"
    else:
        found, cause = database_match.compare(settings, noted_timeline.noted_at(path)), "it is another one than before"
    if found is Match.NONE_NAMED:
        raise ConfigurationError(f"{database_match.PROBLEMS[found]}; {cause}: {REMEDY}")
    if found is Match.NO_FILES and needs_files:
        raise ConfigurationError(f"{database_match.PROBLEMS[found]} in {path.parent}; {cause}: {REMEDY_OF_FILES}")


def require_files(settings: Settings) -> None:
    """Raise ConfigurationError unless the data directory is that of the database: before files are deleted or indexed.

    Below another one, a file that is not there would count as deleted, and those of another installation have no rows.
    Raises as `refuse_lost_database` does.
    """
    refuse_lost_database(settings, needs_files=True, needs_storage=True)
    with reading(settings.database()) as session:
        has_rows = session.scalar(select(or_(exists().select_from(Study), exists().select_from(FileDeletion))))
    # The folder of the spool can be the empty mount point of a volume that is mounted elsewhere.
    store = Spool(settings.spool).store
    if has_rows and not store.is_dir():
        raise ConfigurationError(f"nothing was changed: {store.absolute()} does not exist: {REMEDY_OF_FILES}")


def accept(settings: Settings) -> None:
    """Note that the current database is the one of the stored files, although it has no rows of them."""
    spool = Spool(settings.spool)
    spool.prepare()
    with reading(settings.database()) as session:
        current = noted_timeline.current_timeline(session)
    try:
        noted = noted_timeline.noted(spool.timeline)
    except ConfigurationError:  # damaged: its database is given up
        noted = None
    # Not another timeline of the same one: the dispatcher looks for rows that were lost then.
    if noted is None or not noted.is_same_database(current):
        noted_timeline.note(spool.timeline, current)
