"""Back up database and files while all processes run (`prelim backup`)."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from sqlalchemy import func, select

from db.models import Backup
from db.release import release
from db.session import reading, transaction
from db.studies.deletion import file_deletions
from deploy.launcher import unfinished_restore
from deploy.operate.backup import again, dump, folder_lock, installation
from deploy.operate.backup.contents import Manifest
from deploy.operate.backup.copied_files import Files

if TYPE_CHECKING:
    import datetime as dt

    from rich.console import Console

    from db.settings import Settings
    from deploy.operate.backup.repository import Repository
    from deploy.operate.backup.sealing import Content

COMPARES = (
    "the folder has copies that were not compared with the rows of their files: this backup reads and compares every"
    " file, and takes longer"
)
CLOCK_WENT_BACK = (
    "the database's clock went back: it is {begun:%Y-%m-%d %H:%M:%S} UTC, and the folder has a later backup; this one"
    " is named {name}, as the latest"
)


def run(settings: Settings, console: Console, repository: Repository, *, keep: int) -> Files:
    """Add a backup, and delete those before the latest *keep* complete ones; returns what was copied.

    A backup without some files is kept, but deletes no earlier one and does not count as the last one. Files are not
    deleted meanwhile. Raises NotPossible while another backup is running, ConfigurationError if the folder has backups
    of another key or of another installation, or a restore is not complete, DumpFailed, OSError.
    """
    unfinished_restore.refuse(settings)
    repository.require_key()
    repository.prepare()
    url = settings.database()
    with repository.exclusive():
        installation.require(url, repository)
        with file_deletions.held_off(url):
            begun = _now(url)
            name, is_after = repository.next_name(begun)
            if not is_after:
                console.print(CLOCK_WENT_BACK.format(begun=begun, name=name), highlight=False, soft_wrap=True)
            if compares := not repository.is_compared():
                console.print(COMPARES, soft_wrap=True)
            files, listed, database = _copy(settings, repository, name, compares=compares)
        ended = _now(url)
        manifest = Manifest(
            release(),
            begun.isoformat(),
            ended.isoformat(),
            files.count,
            files.size,
            listed.sha256,
            database.sha256,
            files.absent.files,
            files.compared,
        )
        repository.write_manifest(name, manifest)
        again.note(url, repository)
        _print(console, name, files, database.size, (ended - begun).total_seconds())
        if files.absent:
            return files
        with transaction(url) as session:
            session.add(Backup(name=name, begun_at=begun, ended_at=ended, files=files.count, bytes=files.size))
        _forget(repository, console, keep)
    return files


def _forget(repository: Repository, console: Console, keep: int) -> None:
    """Delete the backups before the latest *keep* complete ones, unless a restore reads the folder."""
    with folder_lock.exclusive(repository.root) as may_delete:
        forgotten = repository.forget(keep) if may_delete else 0
    if forgotten:
        console.print(f"deleted {forgotten} files that no kept backup has", highlight=False)
    if not may_delete:
        console.print("nothing was deleted, because a restore or verification reads the folder", soft_wrap=True)


def _copy(settings: Settings, repository: Repository, name: str, *, compares: bool) -> tuple[Files, Content, Content]:
    """Copy everything; return what was copied, the list of the files and the dump."""
    with tempfile.TemporaryFile() as listed:
        files = Files(settings, repository, listed, compares=compares)
        # An object that is acknowledged by now is in an inbox, and copied from there, or has left it for the store, and
        # has a row, which is read later. The inboxes are read again because objects arrive meanwhile.
        files.copy_inbox()
        with dump.dumping(settings.database()) as stream:
            database = repository.write(name, "database", stream)
        files.copy_rows()
        files.copy_others()
        files.copy_inbox()
        listed.seek(0)
        return files, repository.write(name, "files", listed), database


def _print(console: Console, name: str, files: Files, dump_size: int, seconds: float) -> None:
    size = f"{files.size / 1e6:.1f} MB in {files.count} files, database {dump_size / 1e6:.1f} MB"
    console.print(f"backup {name}: {size}, {seconds:.1f} s", highlight=False)
    for sentence in files.absent.sentences():
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    for folder in files.unused:
        console.print(
            f"not in the backup, and not needed: {folder}: the folder of a reference index that is not in use",
            highlight=False,
            soft_wrap=True,
        )
    if files.absent:
        console.print(
            "the backup is not complete: no earlier one was deleted, and it does not count as the last one; restore or"
            " send these files again, or delete their studies (`prelim audit` names each)",
            highlight=False,
            soft_wrap=True,
        )


def _now(url: str) -> dt.datetime:
    with reading(url) as session:
        now: dt.datetime = session.scalars(select(func.clock_timestamp())).one()
        return now
