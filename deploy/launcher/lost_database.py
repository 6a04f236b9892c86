"""Refuse an empty database beside files of studies: another one had their reports.

A wrong URL, a deleted volume and an image of another major version of PostgreSQL, which begins a new data folder beside
the old one, all look like a first start.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from alembic.runtime.migration import MigrationContext
from sqlalchemy import exists, select

from db.errors import ConfigurationError
from db.models import Study
from db.reports import image_files
from db.session import reading
from db.storage import object_files
from dicom_listener.indexing import failover
from dicom_listener.spool.durable import Spool

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy.orm import Session

    from db.settings import Settings
    from dicom_listener.indexing.failover import Timeline

REMEDY = (
    "name the database that was used until now, or `prelim restore` a backup. If its reports are to be given up:"
    " `prelim migrate --new-database`, with embedded servers `prelim up --new-database`"
)


def refuse_lost_database(settings: Settings) -> None:
    """Raise ConfigurationError if the database has no studies, although files of studies are stored.

    Files of the inbox do not count: the listener needs no database. Raises StorageError, OSError, SQLAlchemyError.
    """
    noted = failover.noted(Spool(settings.spool).timeline)
    with reading(settings.database()) as session:
        is_new = _is_new(session, noted)
    if is_new and (place := stored(settings)):
        raise ConfigurationError(f"the database is empty, but {place} has files of studies: {REMEDY}")


def accept(settings: Settings) -> None:
    """Note that the current database is the one of the stored files, although it has no rows of them."""
    path = Spool(settings.spool).timeline
    noted = failover.noted(path)
    with reading(settings.database()) as session:
        current = failover.current_timeline(session)
    if noted is not None and noted.system != current.system:
        failover.note(path, current)


def stored(settings: Settings) -> str | None:
    """Return where there are files that only a process with a database stores; raises StorageError, OSError."""
    spool = Spool(settings.spool)
    for folder in (spool.store, spool.quarantine, settings.operations.data_dir / image_files.FOLDER):
        if _has_files(folder):
            return str(folder)
    bucket = object_files.bucket(settings)
    if bucket is not None and next(bucket.objects(), None) is not None:
        return f"the object storage {bucket.name}"
    return None


def _is_new(session: Session, noted: Timeline | None) -> bool:
    """Return whether the database has no schema, or no study and another cluster than the *noted* one of the files."""
    if MigrationContext.configure(session.connection()).get_current_revision() is None:
        return True
    if noted is None or noted.system == failover.current_timeline(session).system:
        return False
    return not session.scalar(select(exists().where(Study.id.is_not(None))))


def _has_files(folder: Path) -> bool:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    return any(files for _, _, files in os.walk(folder, onerror=refuse))
