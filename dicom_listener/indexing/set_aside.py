"""Set a received file aside: link it into quarantine, and make the row that has the reason."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from structlog.contextvars import bound_contextvars

from db.errors import Reason
from db.models import Quarantined
from db.session import transaction
from db.studies import lifecycle
from dicom_listener.indexing import headers, unreadable
from dicom_listener.spool.durable import Spool, sync_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from db.settings import Settings
    from db.studies.lifecycle import ReceivedInstance

log = structlog.get_logger()


def set_aside(
    settings: Settings, path: Path, reason: Reason, detail: str, instance: ReceivedInstance | None = None
) -> Quarantined | None:
    """Link the file into quarantine, and return its row; without *instance* it is read for its digest.

    The caller flushes the folder and commits the row (`record`), then removes the file from the inbox. A file that
    cannot be linked stays in the inbox, and its row has that path. One that another dispatcher has indexed meanwhile,
    because its disk read it, gets no row. Raises OSError if the disk does not work at all.
    """
    digest = _digest(path, reason, instance)
    place = _link(Spool(settings.spool), path, reason)
    if place is None:
        return None
    row = Quarantined(
        file_path=place.relative_to(settings.operations.data_dir).as_posix(),
        file_bytes=digest.file_bytes,
        sha256=digest.sha256,
        reason=reason,
        detail=detail,
        received_at=_written_at(path),
    )
    if instance is not None:
        row.received_at = instance.received_at
        row.sop_instance_uid, row.calling_ae_title = instance.sop_instance_uid, instance.calling_ae_title
    return row


def record(session: Session, row: Quarantined) -> None:
    """Insert the row of a file that was set aside."""
    log.warning("index.quarantined", file=Path(row.file_path).name, reason=row.reason, detail=row.detail)
    lifecycle.quarantine(session, row)


def set_conflicts_aside(settings: Settings, files: Mapping[Path, ReceivedInstance]) -> None:
    """Set aside other objects with known SOP Instance UIDs, with their rows; repeating it changes nothing."""
    detail = "another object with this SOP Instance UID was received first"
    reason = Reason.CONFLICTING_SOP_INSTANCE
    aside = {path: set_aside(settings, path, reason, detail, found) for path, found in files.items()}
    if not any(aside.values()):
        return
    sync_directory(Spool(settings.spool).quarantine)
    with transaction(settings.database()) as session:
        for path, row in aside.items():
            if row is not None:
                with bound_contextvars(file=path.name, association_id=files[path].association_id):
                    record(session, row)


def _link(spool: Spool, path: Path, reason: Reason) -> Path | None:
    """Return the path of the file from now on; None if it has left the inbox."""
    quarantined = spool.quarantined_path(path)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(path, quarantined, follow_symlinks=False)
    except OSError as error:
        # Also a readable file may not be linked: one of another owner, with fs.protected_hardlinks.
        if reason is not Reason.FILE_ERROR:
            unreadable.of_one_file(error)
        return None if is_gone(path) else path
    return quarantined


def is_gone(path: Path) -> bool:
    """Return whether there is certainly no such file."""
    try:
        path.lstat()
    except FileNotFoundError:
        return True
    except OSError:  # damaged, and there
        return False
    return False


def _digest(path: Path, reason: Reason, instance: ReceivedInstance | None) -> headers.Digest:
    """Return the digest of a file, without one if it cannot be read."""
    if instance is not None:
        return headers.Digest(instance.file_bytes, instance.sha256)
    if reason is not Reason.FILE_ERROR:
        with contextlib.suppress(OSError):
            return headers.digest(path)
    try:
        return headers.Digest(path.lstat().st_size, "")
    except OSError:
        return headers.Digest(0, "")


def _written_at(path: Path) -> dt.datetime:
    try:
        return dt.datetime.fromtimestamp(path.lstat().st_mtime, dt.UTC)
    except OSError:
        return dt.datetime.now(dt.UTC)
