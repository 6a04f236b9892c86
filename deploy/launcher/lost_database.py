"""Refuse an empty database beside files of studies: another one had their reports.

A wrong URL, a deleted volume and an image of another major version of PostgreSQL, which begins a new data folder beside
the old one, all look like a first start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic.runtime.migration import MigrationContext

from db.errors import ConfigurationError
from db.session import reading
from dicom_listener.recovery import database_match, noted_timeline
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from db.settings import Settings

REMEDY = (
    "name the database that was used until now, or `prelim restore` a backup. If its reports are to be given up:"
    " `prelim migrate --new-database`, with embedded servers `prelim up --new-database`"
)


def refuse_lost_database(settings: Settings) -> None:
    """Raise ConfigurationError if the database is not the one of the stored files of studies.

    It has no tables, or is another cluster than before and names none of these files. Files of the inbox do not count:
    the listener needs no database. Raises StorageError, OSError, SQLAlchemyError.
    """
    noted = noted_timeline.noted(Spool(settings.spool).timeline)
    with reading(settings.database()) as session:
        has_tables = MigrationContext.configure(session.connection()).get_current_revision() is not None
        is_other = noted is not None and noted.system != noted_timeline.current_timeline(session).system
    if not has_tables and (place := database_match.stored(settings)):
        raise ConfigurationError(f"the database is empty, but {place} has files of studies: {REMEDY}")
    if has_tables and is_other and database_match.names_none(settings):
        raise ConfigurationError(
            f"the database is another one than before, and names none of the stored files: {REMEDY}"
        )


def accept(settings: Settings) -> None:
    """Note that the current database is the one of the stored files, although it has no rows of them."""
    path = Spool(settings.spool).timeline
    noted = noted_timeline.noted(path)
    with reading(settings.database()) as session:
        current = noted_timeline.current_timeline(session)
    if noted is not None and noted.system != current.system:
        noted_timeline.note(path, current)
