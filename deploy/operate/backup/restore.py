"""Restore a backup (`prelim restore`), or verify one in a scratch installation, which is removed again."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import structlog
from pydantic import SecretStr
from sqlalchemy import func, select, text, update

from db.errors import NotPossible
from db.migrations.upgrade import migrate
from db.models import Backup, FileDeletion, Instance, Job, Report, Study
from db.reports import complete
from db.session import engine, reading, transaction
from db.settings.object_storage import Storage
from db.states import JobState
from db.storage import object_files
from db.storage.errors import Missing
from deploy.embedded.postgres import Postgres
from deploy.launcher import unfinished_restore
from deploy.operate import audit
from deploy.operate.backup import again, dump, folder_lock, installation, scratch_folder
from deploy.operate.backup.sealing import BackupDamaged, Content
from deploy.operate.erasure import erase
from dicom_listener.indexing import indexer
from dicom_listener.recovery import noted_timeline
from dicom_listener.spool.durable import Spool, sync_directory
from dicom_listener.spool.waiting import received

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from rich.console import Console

    from db.settings import Settings
    from db.storage.bucket import Bucket
    from deploy.operate.backup.contents import Kept, Manifest
    from deploy.operate.backup.repository import Repository

log = structlog.get_logger()

#: Lost files that are named in the log.
NAMED = 100
#: Latest reports that a verification reads.
REPORTS = 100


@dataclass(frozen=True, slots=True)
class Verified:
    """Result of a verification; *violations* are those of the audit, or the files that could not be restored."""

    studies: int
    reports: int
    files: int
    violations: int
    #: Age of the newest object that is certainly in the backup.
    rpo_seconds: float
    #: Time that the restore took.
    rto_seconds: float


class Restored(NamedTuple):
    """Files and database of a backup were restored."""

    manifest: Manifest
    #: Files that are damaged in the backup, or lost where it only lists them.
    lost: int


def verify(settings: Settings, console: Console, repository: Repository, name: str, scratch: Path | None) -> Verified:
    """Restore the backup *name* in a folder below *scratch* and audit it; raises BackupDamaged, DumpFailed.

    The running system is not touched: the scratch installation has a database server of its own.
    """
    begun = time.monotonic()
    with _scratch(settings, scratch) as copy:
        manifest, lost = restore(copy, repository, name, object_files.bucket(settings))
        violations = max(finish(copy, console, repository), lost)
        found = _read(copy, manifest, violations, time.monotonic() - begun)
    _print(console, name, found)
    if not violations:
        with transaction(settings.database()) as session:
            session.execute(update(Backup).where(Backup.name == name).values(verified_at=func.clock_timestamp()))
    return found


@contextmanager
def _scratch(settings: Settings, parent: Path | None) -> Iterator[Settings]:
    """Settings of an empty installation with a database server of its own, which is removed after the block."""
    with scratch_folder.scratch(parent) as folder:
        server = Postgres(folder / "postgres")
        try:
            # A signal can end the start, too.
            server.start()
            yield _settings_of(settings, folder, server.url)
            engine(server.url).dispose()
        finally:
            server.stop()


def _settings_of(settings: Settings, folder: Path, url: str) -> Settings:
    other = {"data_dir": folder / "data", "database_url": SecretStr(url)}
    operations = settings.operations.model_copy(update=other)
    # Without the object storage: nothing in it may be repaired or deleted.
    return settings.model_copy(update={"operations": operations, "storage": Storage()})


def restore(settings: Settings, repository: Repository, name: str, source: Bucket | None = None) -> Restored:
    """Restore files, then the database; a restore that was interrupted before its end can be repeated.

    Objects that the object storage of the settings still has stay there; those that are only listed are read from
    *source* if the settings have none. Files that cannot be restored are named in the log: another backup has the same
    copy, and all else is needed. Raises NotPossible if the database has tables; BackupDamaged, DumpFailed, OSError.
    """
    url = settings.database()
    _require_empty(url)
    with folder_lock.shared(repository.root):
        manifest = repository.manifest(name)
        unfinished_restore.begin(url, name)
        lost = _restore_files(settings, repository, name, source)
        with dump.restoring(url) as stream:
            content = repository.read(name, "database", stream)
    _compare("database", content.sha256, manifest.database_sha256)
    return Restored(manifest, lost)


def lacking(repository: Repository, name: str) -> str | None:
    """Return how many files the backup *name* lacks, and which one lacks none; None if it is complete."""
    absent = repository.manifest(name).absent
    if not absent:
        return None
    complete = repository.complete()
    other = f"the latest complete one is {complete[-1]} (--name {complete[-1]})" if complete else "none is complete"
    return f"backup {name} lacks {absent} of its files; {other}"


def finish(settings: Settings, console: Console, repository: Repository) -> int:
    """Make a restored system ready to work; return the number of violations that its audit leaves. Safe to repeat.

    Workers that ran before the restore cannot write: their jobs are queued again under new claim tokens. Patients that
    were erased after the backup was made are erased again. Until the end, processes refuse the database. Raises
    NotPossible if it is empty.
    """
    url = settings.database()
    _require_unfinished(url)
    migrate(url)
    _forget_objects(settings)
    installation.resume(url, repository)
    erases = again.include(url, repository)
    with transaction(url) as session:
        values = {"state": JobState.QUEUED, "lease_until": None, "owner": None, "sent_at": None}
        running = update(Job).where(Job.state == JobState.RUNNING)
        session.execute(running.values(**values, claim_token=func.gen_random_uuid()))
        session.execute(update(Job).where(Job.state == JobState.QUEUED).values(sent_at=None))
    Spool(settings.spool).prepare()
    # Files that arrived after the dump have no row: they return to the inbox.
    audit.show(settings, console, repair=True)
    while any(received(Spool(settings.spool))) and indexer.run_once(settings):
        pass
    if erases:
        erase.carry_out(settings, console, dated_later=False)
    with reading(url) as session:
        current = noted_timeline.current_timeline(session)
    noted_timeline.note(Spool(settings.spool).timeline, current)
    violations = audit.show(settings, console, repair=True)
    unfinished_restore.end(url)
    return violations


def _require_empty(url: str) -> None:
    if _has_tables(url):
        raise NotPossible(
            "the database has tables: restore into an empty database, or complete a restore with --finish"
        )


def _require_unfinished(url: str) -> None:
    if not _has_tables(url):
        raise NotPossible("the database is empty, there is nothing to finish: repeat the restore without --finish")
    if unfinished_restore.read(url) is None:
        raise NotPossible("no restore of this database is unfinished, and nothing was changed")


def _has_tables(url: str) -> bool:
    with reading(url) as session:
        return bool(session.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")))


def _restore_files(settings: Settings, repository: Repository, name: str, source: Bucket | None) -> int:
    """Restore the files; return the number of those that are damaged in the backup, or lost where it lists them."""
    folders, bucket, lost = set(), object_files.bucket(settings), 0
    for kept in repository.files(name):
        if kept.is_object and bucket is not None and _has(bucket, kept):
            continue
        target = settings.operations.data_dir / kept.path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            _restore_file(target, repository, kept, source or bucket)
        except BackupDamaged as error:
            lost += 1
            if lost <= NAMED:
                log.warning("restore.file_lost", file=kept.path, cause=str(error))
        folders.add(target.parent)
    for folder in folders:
        sync_directory(folder)
    return lost


def _restore_file(target: Path, repository: Repository, kept: Kept, source: Bucket | None) -> None:
    """Write a file durably, or not at all; raises BackupDamaged, OSError."""
    unfinished = target.with_suffix(".restored")
    try:
        with unfinished.open("wb") as file:
            content = repository.restore(kept.name, file) if kept.name else _fetch(source, kept, file)
            _compare(kept.path, content, kept.content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _has(bucket: Bucket, kept: Kept) -> bool:
    found = bucket.head(object_files.key(kept.path))
    return found is not None and Content(found.size, found.sha256) == kept.content


def _fetch(source: Bucket | None, kept: Kept, file: BinaryIO) -> Content:
    """Read an object that the backup only lists; raises BackupDamaged if it is lost, Unavailable."""
    digest = hashlib.sha256()

    def take(block: bytes) -> None:
        digest.update(block)
        file.write(block)

    try:
        object_files.required(source).get(object_files.key(kept.path), take)
    except Missing as error:
        raise BackupDamaged(f"{error}, and the backup only lists it (PRELIM_STORAGE_BACKUP)") from error
    return Content(kept.content.size, digest.hexdigest())


def _forget_objects(settings: Settings) -> None:
    """Without an object storage, note that every file is on local disk, and that no object is to be deleted."""
    if settings.storage.storage_url is None:
        with transaction(settings.database()) as session:
            moved = update(Instance).where(Instance.object_sha256.is_not(None) | Instance.storage_due_at.is_not(None))
            session.execute(moved.values(object_sha256=None, storage_due_at=None))
            # Otherwise no file could be deleted any more.
            session.execute(update(FileDeletion).where(FileDeletion.in_storage).values(in_storage=False))


def _compare(name: str, found: Content | str, expected: Content | str) -> None:
    if found != expected:
        raise BackupDamaged(f"{name} of the backup is not the file that was copied: its digest differs")


def _read(settings: Settings, manifest: Manifest, violations: int, seconds: float) -> Verified:
    """Count what was restored, and read the latest reports."""
    with reading(settings.database()) as session:
        studies, reports = (session.scalar(select(func.count()).select_from(table)) or 0 for table in (Study, Report))
        query = complete.Query()
        for report in session.scalars(select(Report).order_by(Report.created_at.desc()).limit(REPORTS)):
            query.read(session, report.study_id, report.version)
    age = dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(manifest.begun_at)
    return Verified(studies, reports, manifest.files, violations, age.total_seconds(), seconds)


def _print(console: Console, name: str, found: Verified) -> None:
    state = "verified" if not found.violations else f"NOT verified: {found.violations} violations"
    counts = f"{found.studies} studies, {found.reports} reports, {found.files} files"
    times = (
        f"RTO {found.rto_seconds:.0f} s (restored and audited here), RPO {found.rpo_seconds:.0f} s (age of the backup)"
    )
    for line in (f"backup {name} {state}: {counts}", times):
        console.print(line, highlight=False, soft_wrap=True)
