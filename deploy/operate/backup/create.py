"""Back up database and files while all processes run (`prelim backup`)."""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from sqlalchemy import func, select

from db.models import Backup, Instance
from db.reports import image_files
from db.session import reading, transaction
from db.storage import object_files
from db.storage.errors import StorageError, Unavailable
from db.studies.deletion import file_deletions
from deploy.operate.backup import again, dump
from deploy.operate.backup.repository import Manifest, Repository
from deploy.operate.backup.sealing import Content
from dicom_listener.spool.durable import COMPLETE, Spool
from dicom_listener.spool.inbox_listing import received

if TYPE_CHECKING:
    import datetime as dt
    import uuid
    from collections.abc import Iterator

    from rich.console import Console

    from db.settings import Settings

#: Rows of one page.
PAGE = 1000
#: Folder of the reference indexes, below the data directory.
REFERENCE = "reference"


class Copied(NamedTuple):
    """Number and bytes of the files in a backup."""

    files: int
    size: int
    #: Sentences about files that cannot be read, and folders that cannot be listed.
    unread: list[str]


class _Files:
    """Copies files, and lists each once."""

    def __init__(self, settings: Settings, repository: Repository, listed: BinaryIO) -> None:
        self._settings = settings
        self._data_dir, self._spool = settings.operations.data_dir, Spool(settings.spool)
        self._repository = repository
        self._listed = listed
        self._inbox: set[str] = set()
        self.copied = Copied(0, 0, [])

    def copy_inbox(self) -> None:
        """Copy the acknowledged files that are not indexed yet."""
        errors: list[OSError] = []
        for path in received(self._spool, errors):
            if path.name not in self._inbox:
                self._inbox.add(path.name)
                self.copy(path)
        for error in errors:
            note_unlisted(error, self._data_dir, self.copied.unread)

    def copy(self, path: Path) -> None:
        """Copy a file; one that has left its folder is copied at its next place."""
        name = path.relative_to(self._data_dir).as_posix()
        try:
            kept_as, content = self._repository.keep(path, name, mutable=path.parent == self._spool.procedure_steps)
        except FileNotFoundError:
            return
        except OSError as error:
            self.copied.unread.append(f"{name}: {error.strerror}")
            return
        self._list(name, kept_as, content)
        self.copied = self.copied._replace(files=self.copied.files + 1, size=self.copied.size + content.size)

    def copy_objects(self) -> None:
        """Copy or list the files that are in the object storage only; the first failure of the storage ends it."""
        for row in _moved(self._settings):
            if (self._data_dir / row.file_path).exists():
                continue
            try:
                self._copy_object(row)
            except Unavailable as error:
                self.copied.unread.append(f"objects from {row.file_path} on: {error}")
                return
            except StorageError as error:
                self.copied.unread.append(f"{row.file_path}: {error}")

    def _copy_object(self, row: Instance) -> None:
        content = Content(row.file_bytes, row.object_sha256 or "")
        if self._settings.storage.storage_backup == "list":
            self._list(row.file_path, "", content, True)
            return
        if (known := self._repository.known(row.file_path)) is None or known.sha256 != row.object_sha256:
            with object_files.opened(self._settings) as stored:
                _, content = self._repository.keep(stored.path(row), row.file_path, mutable=False)
        else:
            content = known
        self._list(row.file_path, row.file_path, content, True)
        self.copied = self.copied._replace(files=self.copied.files + 1, size=self.copied.size + content.size)

    def _list(self, name: str, kept_as: str, content: Content, *is_object: bool) -> None:
        line = json.dumps([name, kept_as, content.size, content.sha256, *is_object])
        self._listed.write(f"{line}\n".encode())


def run(settings: Settings, console: Console, repository: Repository, *, keep: int) -> Copied:
    """Add a backup, and delete all but the latest *keep*; returns what was copied.

    Files are not deleted meanwhile. Raises NotPossible while another backup is running, DumpFailed, OSError.
    """
    repository.prepare()
    url = settings.database()
    with repository.exclusive():
        with file_deletions.held_off(url):
            begun = _now(url)
            name = f"{begun:%Y%m%dT%H%M%S.%fZ}"
            copied, listed, database = _copy(settings, repository, name)
        ended = _now(url)
        times = {"begun_at": begun.isoformat(), "ended_at": ended.isoformat()}
        digests = {"list_sha256": listed.sha256, "database_sha256": database.sha256}
        manifest = Manifest(version=version("prelim"), files=copied.files, bytes=copied.size, **times, **digests)
        repository.write_manifest(name, manifest)
        again.note(url, repository)
        forgotten = repository.forget(keep)
    with transaction(url) as session:
        session.add(Backup(name=name, begun_at=begun, ended_at=ended, files=copied.files, bytes=copied.size))
    _print(console, name, copied, database.size, (ended - begun).total_seconds())
    if forgotten:
        console.print(f"deleted {forgotten} files that no kept backup has", highlight=False)
    return copied


def _copy(settings: Settings, repository: Repository, name: str) -> tuple[Copied, Content, Content]:
    """Copy everything; return what was copied, the list of the files and the dump."""
    with tempfile.TemporaryFile() as listed:
        files = _Files(settings, repository, listed)
        # An object that is acknowledged by now is in an inbox, and copied from there, or has left it for the store,
        # which is read later. The inboxes are read again because objects arrive meanwhile.
        files.copy_inbox()
        with dump.dumping(settings.database()) as stream:
            database = repository.write(name, "database", stream)
        for path in stored(settings, files.copied.unread):
            files.copy(path)
        # After the local files: a file that has left them since is an object.
        files.copy_objects()
        files.copy_inbox()
        listed.seek(0)
        return files.copied, repository.write(name, "files", listed), database


def stored(settings: Settings, unread: list[str]) -> Iterator[Path]:
    """Yield the files below the data directory that a restored system needs, without those of the inboxes.

    A sentence about each folder that cannot be listed is added to *unread*.
    """
    spool, data_dir = Spool(settings.spool), settings.operations.data_dir
    note = partial(note_unlisted, data_dir=data_dir, unread=unread)
    received_objects = (spool.store, spool.quarantine)
    for root in (*received_objects, spool.procedure_steps, data_dir / image_files.FOLDER, data_dir / REFERENCE):
        for folder, _, names in os.walk(root, onerror=note):
            complete = (name for name in names if root not in received_objects or name.endswith(COMPLETE))
            yield from (Path(folder, name) for name in complete)


def note_unlisted(error: OSError, data_dir: Path, unread: list[str]) -> None:
    """Add a sentence about a folder that cannot be listed to *unread*, once."""
    sentence = f"{Path(error.filename).relative_to(data_dir).as_posix()}: {error.strerror}"
    # A folder that does not exist has no files yet, or no more. The inboxes are listed twice.
    if not isinstance(error, FileNotFoundError) and sentence not in unread:
        unread.append(sentence)


def _moved(settings: Settings) -> Iterator[Instance]:
    """Yield the instances whose files have objects."""
    query = select(Instance).where(Instance.object_sha256.is_not(None)).order_by(Instance.id).limit(PAGE)
    last: uuid.UUID | None = None
    while True:
        with reading(settings.database()) as session:
            page = session.scalars(query if last is None else query.where(Instance.id > last)).all()
        if not page:
            return
        yield from page
        last = page[-1].id


def _print(console: Console, name: str, copied: Copied, dump_size: int, seconds: float) -> None:
    size = f"{copied.size / 1e6:.1f} MB in {copied.files} files, database {dump_size / 1e6:.1f} MB"
    console.print(f"backup {name}: {size}, {seconds:.1f} s", highlight=False)
    for sentence in copied.unread:
        console.print(f"not in the backup: {sentence}", markup=False, highlight=False, soft_wrap=True)


def _now(url: str) -> dt.datetime:
    with reading(url) as session:
        now: dt.datetime = session.scalars(select(func.clock_timestamp())).one()
        return now
