"""Repair the spool: a resent object replaces a stored file that is missing or damaged, and lost files are indexed."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import func, update

from db.models import Instance
from db.session import transaction
from db.studies import lifecycle
from db.studies.deletion import file_deletions
from db.studies.identity import replacement
from dicom_listener.indexing import headers, specialist_reports
from dicom_listener.indexing.set_aside import is_gone
from dicom_listener.spool import file_meta, inbox, object_tag
from dicom_listener.spool.durable import COMPLETE, sync_directory, sync_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from db.settings import Settings
    from db.studies.lifecycle import ReceivedInstance
    from dicom_listener.spool.durable import Spool

log = structlog.get_logger()


def repair(settings: Settings, copies: Mapping[str, Path]) -> set[Path]:
    """Replace missing or damaged stored files by *copies*: durable files of equal objects, by SOP Instance UID.

    Returns the copies that stay at their own paths, because the path of the damaged file cannot be replaced. Safe to
    repeat. No transaction is open while files are read. Raises OSError, SQLAlchemyError.
    """
    if not copies:
        return set()
    with transaction(settings.database()) as session:
        rows = lifecycle.instances(session, copies)
    kept = set()
    for row in rows.values():
        copy = copies[row.sop_instance_uid]
        damage = _damage(settings.operations.data_dir / row.file_path, headers.Digest(row.file_bytes, row.sha256))
        if damage is not None:
            path = _replace(settings, row, copy)
            event = "instance.repaired" if row.object_sha256 is None else "instance.kept_again"
            log.warning(event, instance_id=str(row.id), file=path.name, damage=damage)
            kept |= {copy} & {path}
    return kept


def replace_lost(settings: Settings, others: Mapping[Path, ReceivedInstance]) -> set[Path]:
    """Give instances whose stored files are gone the files of *others*: durable files of different versions.

    Returns those in *others* that rows use now. The first version cannot be restored, and the modality may delete this
    one after its storage commitment. Not of structured reports: their predictions are those of the first version.
    Safe to repeat. Raises SQLAlchemyError.
    """
    others = {path: one for path, one in others.items() if one.sop_class_uid not in specialist_reports.SOP_CLASSES}
    if not others:
        return set()
    with transaction(settings.database()) as session:
        rows = lifecycle.instances(session, [received.sop_instance_uid for received in others.values()])
    taken = set()
    for path, received in others.items():
        row = rows.get(received.sop_instance_uid)
        if row is None or row.object_sha256 is not None or not is_gone(settings.operations.data_dir / row.file_path):
            continue
        with transaction(settings.database()) as session:
            replaced = replacement.replace_lost(session, received, row.file_path)
        if replaced:
            taken.add(path)
            log.warning("instance.replaced", instance_id=str(row.id), file=path.name, damage="lost")
    return taken


def _damage(path: Path, recorded: headers.Digest) -> str | None:
    """Return how the file differs from its row; None if it does not."""
    try:
        if path.stat().st_size != recorded.file_bytes:
            return "size"
        return None if headers.digest(path) == recorded else "digest"
    except OSError as error:
        return os.strerror(error.errno or 0)


def _replace(settings: Settings, row: Instance, copy: Path) -> Path:
    """Give the row the file *copy*, at the path of the damaged one if possible; return the path."""
    path = settings.operations.data_dir / row.file_path
    try:
        copy.replace(path)
    except OSError:  # not only the content is damaged, but also the inode or the directory
        path = copy
    sync_directory(path.parent)
    size = None
    # Another dispatcher may have replaced the file since it was measured, by a copy with a longer header.
    while size != (measured := path.stat().st_size):
        size = measured
        _record(settings, row, path, size)
    return path


def _record(settings: Settings, row: Instance, path: Path, size: int) -> None:
    with transaction(settings.database()) as session:
        locked = session.get_one(Instance, row.id, with_for_update=True)
        if locked.sha256 == row.sha256:  # else an operator has replaced the object meanwhile
            locked.file_bytes = size
            new_path = path.relative_to(settings.operations.data_dir).as_posix()
            if locked.object_sha256 is not None:
                # The mover asks the object storage for the object before it deletes the copy.
                locked.storage_due_at = func.clock_timestamp()
                if new_path != locked.file_path:
                    file_deletions.note_objects(session, [locked.file_path])
                    locked.object_sha256 = None
            locked.file_path = new_path


def note_size(settings: Settings, file_path: str) -> bool:
    """Note the size of a stored file that has the data set of its row, and another header; return whether it has it."""
    path = settings.operations.data_dir / file_path
    found = headers.digest(path)
    with transaction(settings.database()) as session:
        is_equal = Instance.file_path == file_path, Instance.sha256 == found.sha256
        noted = update(Instance).where(*is_equal).values(file_bytes=found.file_bytes).returning(Instance.id)
        return session.scalar(noted) is not None


def return_to_inbox(path: Path, spool: Spool) -> None:
    """Return a stored file without a row to the inbox: the indexer inserts its row, or finds the object elsewhere."""
    received = spool.inbox / f"{path.stem}{object_tag.read(path)}{COMPLETE}"
    os.link(path, received)
    sync_directory(spool.inbox)
    # Its new path can be the old one, and then it may have a row by now.
    if path != spool.stored_path(received):
        path.unlink()


def recover_part(path: Path, _: Spool) -> None:
    """Recover as the owner of a slot does: a valid seal makes an object, any other file was not acknowledged."""
    if file_meta.is_complete(path):
        sync_file(path)
        with contextlib.suppress(FileExistsError):
            os.link(path, inbox.tagged(path))
        sync_directory(path.parent)
    path.unlink()
