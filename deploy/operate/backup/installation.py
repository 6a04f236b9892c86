"""Keep the backups of two installations apart: one would delete those of the other, and be restored from them.

The identifier is a comment of the table of the backups, so that a dump has it, and a restored database continues its
folder. It is made by the first backup.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import psycopg
import structlog
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from db.errors import ConfigurationError
from db.session import transaction
from deploy.operate.backup.contents import INSTALLATION
from deploy.operate.backup.sealing import BackupDamaged

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from deploy.operate.backup.repository import Repository

log = structlog.get_logger()

READ = text("SELECT obj_description('backups'::regclass, 'pg_class')")
PREFIX = "installation "


def require(url: str, repository: Repository) -> None:
    """Note the installation in its folder; raises ConfigurationError if the folder is that of another one.

    Also if that cannot be compared: tables of another user, as after a restore by an administrator, take no comment.
    They are backed up to a folder without an installation. Raises BackupDamaged for a damaged identifier.
    """
    noted: str | None = repository.noted(INSTALLATION)
    try:
        with transaction(url) as session:
            own = _read(session) or _write(session, str(uuid.uuid4()))
    except ProgrammingError as error:
        if not isinstance(error.orig, psycopg.errors.InsufficientPrivilege):
            raise
        if noted is not None:
            raise ConfigurationError(
                f"{repository.root} is the folder of one installation, perhaps another: the user of the database does"
                " not own its tables, which would tell. ALTER TABLE backups OWNER TO that user"
            ) from error
        log.warning("backup.installation_not_noted", cause="the user of the database does not own its tables")
        return
    if noted is None:
        repository.note(INSTALLATION, own)
    elif noted != own:
        raise ConfigurationError(
            f"{repository.root} has the backups of another installation, and nothing was changed: each needs a folder"
            " of its own, because it deletes old backups there and is restored from the latest one. If this database"
            f" was restored by other tools, delete {INSTALLATION}.sealed in the folder"
        )


def resume(url: str, repository: Repository) -> None:
    """Let a restored database without an identifier, from a backup of an earlier release, continue its folder."""
    try:
        noted = repository.noted(INSTALLATION)
    except BackupDamaged:  # that must not prevent a restore
        noted = None
    if noted is not None:
        with transaction(url) as session:
            if _read(session) is None:
                _write(session, noted)


def _read(session: Session) -> str | None:
    comment: str | None = session.scalar(READ)
    return comment.removeprefix(PREFIX) if comment is not None and comment.startswith(PREFIX) else None


def _write(session: Session, identifier: str) -> str:
    # COMMENT takes no parameters.
    session.execute(text(f"COMMENT ON TABLE backups IS '{PREFIX}{uuid.UUID(identifier)}'"))
    return identifier
