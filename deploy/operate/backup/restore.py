"""Restore a backup (`prelim restore`), or verify one in a scratch installation, which is removed again."""

from __future__ import annotations

import datetime as dt
import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr
from sqlalchemy import func, select, text, update

from db.errors import NotPossible
from db.migrations.upgrade import migrate
from db.models import Backup, Job, Report, Study
from db.reports import complete
from db.session import engine, reading, transaction
from db.states import JobState
from deploy.embedded.postgres import Postgres
from deploy.operate import audit
from deploy.operate.backup import again, dump
from deploy.operate.backup.sealing import BackupDamaged
from deploy.operate.erasure import erase
from dicom_listener.indexing import indexer
from dicom_listener.spool.durable import Spool, sync_directory
from dicom_listener.spool.waiting import received

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from db.settings import Settings
    from deploy.operate.backup.repository import Manifest, Repository
    from deploy.operate.backup.sealing import Content

#: Latest reports that a verification reads.
REPORTS = 100


@dataclass(frozen=True, slots=True)
class Verified:
    """Result of a verification; *violations* are those of the audit."""

    studies: int
    reports: int
    files: int
    violations: int
    #: Age of the newest object that is certainly in the backup.
    rpo_seconds: float
    #: Time that the restore took.
    rto_seconds: float


def verify(settings: Settings, console: Console, repository: Repository, name: str, scratch: Path | None) -> Verified:
    """Restore the backup *name* in a folder below *scratch* and audit it; raises BackupDamaged, DumpFailed.

    The running system is not touched: the scratch installation has a database server of its own.
    """
    begun = time.monotonic()
    with _scratch(settings, scratch) as copy:
        manifest = restore(copy, repository, name)
        violations = finish(copy, console, repository)
        found = _read(copy, manifest, violations, time.monotonic() - begun)
    _print(console, name, found)
    if not violations:
        with transaction(settings.database()) as session:
            session.execute(update(Backup).where(Backup.name == name).values(verified_at=func.clock_timestamp()))
    return found


@contextmanager
def _scratch(settings: Settings, parent: Path | None) -> Iterator[Settings]:
    """Settings of an empty installation with a database server of its own, which is removed after the block."""
    with (
        tempfile.TemporaryDirectory(prefix="prelim-restore-", dir=parent) as folder,
        Postgres(Path(folder, "postgres")) as server,
    ):
        other = {"data_dir": Path(folder, "data"), "database_url": SecretStr(server.url)}
        operations = settings.operations.model_copy(update=other)
        yield settings.model_copy(update={"operations": operations})
        engine(server.url).dispose()


def restore(settings: Settings, repository: Repository, name: str) -> Manifest:
    """Restore files, then the database; a restore that was interrupted before its end can be repeated.

    Raises NotPossible if the database has tables; BackupDamaged, DumpFailed, OSError.
    """
    url = settings.database()
    _require_empty(url)
    manifest = repository.manifest(name)
    _restore_files(settings.operations.data_dir, repository, name)
    with dump.restoring(url) as stream:
        content = repository.read(name, "database", stream)
    _compare("database", content.sha256, manifest.database_sha256)
    return manifest


def finish(settings: Settings, console: Console, repository: Repository) -> int:
    """Make a restored system ready to work; return the number of violations that its audit leaves. Safe to repeat.

    Workers that ran before the restore cannot write: their jobs are queued again under new claim tokens. Patients that
    were erased after the backup was made are erased again.
    """
    url = settings.database()
    migrate(url)
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
        erase.resume(settings, console)
    return audit.show(settings, console, repair=True)


def _require_empty(url: str) -> None:
    with reading(url) as session:
        if session.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")):
            raise NotPossible(
                "the database has tables: restore into an empty database, or complete a restore with --finish"
            )


def _restore_files(data_dir: Path, repository: Repository, name: str) -> None:
    folders = set()
    for path, kept_as, expected in repository.files(name):
        target = data_dir / path
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = target.with_suffix(".restored")
        with unfinished.open("wb") as file:
            _compare(path, repository.restore(kept_as, file), expected)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(target)
        folders.add(target.parent)
    for folder in folders:
        sync_directory(folder)


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
