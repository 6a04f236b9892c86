"""Copy the files of an installation to the folder of the backups, and list each once."""

from __future__ import annotations

import json
import os
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from db.reports import image_files
from db.session import reading
from db.storage import object_files
from db.storage.errors import StorageError, Unavailable
from deploy.operate.backup import sealing, stored_rows
from deploy.operate.backup.absent import Absent
from deploy.operate.backup.sealing import Content
from dicom_listener.spool.durable import COMPLETE, Spool, open_regular
from dicom_listener.spool.inbox_listing import received

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from db.settings import Settings
    from deploy.operate.backup.repository import Repository
    from deploy.operate.backup.stored_rows import StoredRow

#: Folder of the reference indexes, below the data directory.
REFERENCE = "reference"
LOST_SPOOL = "no folder, and the database has studies: give PRELIM_DATA_DIR as the processes have it"
MISSING = "no file, and its row needs one"
LOST_INDEX = "no folder, and it is the reference index in use: `prelim index build` makes a new one"


class Files:
    """Copies files, and lists each once in *listed*.

    With *compares*, each file and its earlier copy are compared with the row, otherwise only a file without a copy.
    """

    def __init__(self, settings: Settings, repository: Repository, listed: BinaryIO, *, compares: bool = False) -> None:
        self._settings = settings
        self._data_dir, self._spool = settings.operations.data_dir, Spool(settings.spool)
        self._repository = repository
        self._listed = listed
        self._compares = compares
        #: Whether every copy of a file with a row is compared now.
        self.compared = True
        self._inbox: set[str] = set()
        self._unavailable: Unavailable | None = None
        self.absent = Absent()
        #: Folders of reference indexes that are lost, and not in use.
        self.unused: list[str] = []
        #: Number and bytes of the copies.
        self.count = self.size = 0

    def copy_inbox(self) -> None:
        """Copy the acknowledged files that are not indexed yet."""
        is_empty = not (self._spool.store.is_dir() or self._spool.inbox.is_dir())
        if is_empty and stored_rows.are_studies(self._settings):
            # Without a row of a local file, nothing else would be missing.
            self.absent.note_folder(self._spool.root.relative_to(self._data_dir).as_posix(), LOST_SPOOL)
        errors: list[OSError] = []
        for path in received(self._spool, errors):
            if path.name not in self._inbox:
                self._inbox.add(path.name)
                self._copy_without_row(path)
        for error in errors:
            self._note_unlisted(error)

    def copy_rows(self) -> None:
        """Copy the file of each row, or find it in the object storage; note each that is missing or another one."""
        for row in stored_rows.every(self._settings):
            self._copy_row(row)
        lost = {folder for folder in stored_rows.indexes(self._settings) if not (self._data_dir / folder).is_dir()}
        # A build may have deleted the row and its folder meanwhile.
        for folder, is_used in (stored_rows.indexes(self._settings) if lost else {}).items():
            if folder in lost and is_used:
                self.absent.note_folder(folder, LOST_INDEX)
            elif folder in lost:
                self.unused.append(folder)

    def copy_others(self) -> None:
        """Copy the files that no row names: reference indexes, procedure steps, what is being stored or deleted.

        After the rows: a file that has got its row since was in an inbox before, and was copied from there.
        """
        files = self._stored()
        while page := list(islice(files, stored_rows.PAGE)):
            paths = {path.relative_to(self._data_dir).as_posix(): path for path in page}
            with reading(self._settings.database()) as session:
                named = stored_rows.named(session, paths.keys())
            for name in paths.keys() - named:
                self._copy_without_row(paths[name])

    def _copy_without_row(self, path: Path) -> None:
        """Copy a file; one that has left its folder is copied at its next place."""
        name = path.relative_to(self._data_dir).as_posix()
        try:
            mutable = path.parent == self._spool.procedure_steps or self._is_first(path, name)
            self._list(name, *self._repository.keep(path, name, mutable=mutable))
        except FileNotFoundError:
            return
        except OSError as error:
            self.absent.note(Path(name).parent.as_posix(), name, error.strerror or "it cannot be read")

    def _is_first(self, path: Path, name: str) -> bool:
        """Return whether a file gets its first copy before its row: it needs another one, compared with the row."""
        folders = self._spool.store, self._spool.quarantine, self._data_dir / image_files.FOLDER
        return any(map(path.is_relative_to, folders)) and self._repository.kept(name, path.stat().st_size) is None

    def _copy_row(self, row: StoredRow) -> None:
        """Copy the file of a row; a cause is noted only if the row is the same after it was found."""
        if (cause := self._cause(row)) is None:
            return
        now = stored_rows.again(self._settings, row)
        if now is not None and now != row:
            cause = self._cause(row := now)
        if now is not None and cause is not None:
            earlier = self._earlier(row)
            self.absent.note(row.folder, row.file_path, cause, has_earlier=earlier is not None)
            if earlier is not None:
                self._list(row.file_path, *earlier)

    def _earlier(self, row: StoredRow) -> tuple[str, Content] | None:
        """Return the copy of the file of a row that an earlier backup has; None if it is one of the damaged file."""
        found = self._repository.kept(row.file_path, row.file_bytes) if row.sha256 else None
        if found is None or not self._compares:
            return found
        self.compared = False
        try:
            with open_regular(self._data_dir / row.file_path) as file:
                return None if sealing.sha256(file) == found[1].sha256 else found
        except OSError:
            return found

    def _cause(self, row: StoredRow) -> str | None:
        """Copy the file of a row, or its object; return why it cannot be copied."""
        path = self._data_dir / row.file_path
        try:
            cause = self._differs(row, path)
            if cause is None:
                self._list(row.file_path, *self._repository.keep(path, row.file_path, compared=self._compares))
        except FileNotFoundError:
            cause = MISSING
        except OSError as error:
            if not row.sha256:  # in quarantine because it cannot be read
                return None
            cause = error.strerror or "it cannot be read"
        if cause is None or row.object_sha256 is None:
            return cause
        try:
            self._copy_object(row)
        except StorageError as error:
            return str(error)
        return None

    def _differs(self, row: StoredRow, path: Path) -> str | None:
        """Compare a file with its row, without reading it if an earlier backup has copied it."""
        is_known = path.stat().st_size == row.file_bytes and self._repository.kept(row.file_path, row.file_bytes)
        return None if is_known and not self._compares else row.difference(path)

    def _copy_object(self, row: StoredRow) -> None:
        """Copy or list an object; after the storage has failed once, only what an earlier backup has."""
        if self._settings.storage.storage_backup == "list":
            self._list_object(row, "", Content(row.file_bytes, row.object_sha256 or ""))
            return
        found = self._repository.kept(row.file_path, None, row.object_sha256)
        if found is None:
            found = self._fetch(row)
        self._list_object(row, *found)
        self._add(found[1])

    def _fetch(self, row: StoredRow) -> tuple[str, Content]:
        if self._unavailable is not None:
            raise self._unavailable
        try:
            with object_files.opened(self._settings) as stored:
                return self._repository.keep(stored.path(row), row.file_path)
        except Unavailable as error:
            self._unavailable = error
            raise

    def _list(self, name: str, kept_as: str, content: Content) -> None:
        self._write([name, kept_as, content.size, content.sha256])
        self._add(content)

    def _list_object(self, row: StoredRow, kept_as: str, content: Content) -> None:
        self._write([row.file_path, kept_as, content.size, content.sha256, True])

    def _write(self, values: list[object]) -> None:
        self._listed.write(f"{json.dumps(values)}\n".encode())

    def _add(self, content: Content) -> None:
        self.count, self.size = self.count + 1, self.size + content.size

    def _stored(self) -> Iterator[Path]:
        """Yield the files below the data directory that a restored system needs, without those of the inboxes."""
        spool, received_objects = self._spool, (self._spool.store, self._spool.quarantine)
        images, references = self._data_dir / image_files.FOLDER, self._data_dir / REFERENCE
        for root in (*received_objects, spool.procedure_steps, images, references):
            for folder, names in _walk(root, self._note_unlisted):
                complete = (name for name in names if root not in received_objects or name.endswith(COMPLETE))
                yield from map(partial(Path, folder), complete)

    def _note_unlisted(self, error: OSError) -> None:
        # A folder that does not exist has no files yet, or no more; rows that need it are noted.
        if not isinstance(error, FileNotFoundError):
            path = Path(error.filename).relative_to(self._data_dir).as_posix()
            self.absent.note_folder(path, error.strerror or "it cannot be listed")


def _walk(root: Path, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str]]]:
    """Yield each folder below *root*, also behind links but not within itself, and the names of its files."""
    above = {str(root): frozenset((os.path.realpath(root),))}
    for folder, folders, names in os.walk(root, onerror=onerror, followlinks=True):
        reached = above.pop(folder)
        real = {name: os.path.realpath(Path(folder, name)) for name in folders}
        folders[:] = [name for name in folders if real[name] not in reached]
        above |= {os.path.join(folder, name): reached | {real[name]} for name in folders}  # noqa: PTH118 - as os.walk
        yield folder, names
