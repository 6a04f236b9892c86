"""The folder of the backups: one encrypted copy of each file, and a list of them for each backup.

files/<path>.sealed                  file of the data directory; written once, never replaced
files/<path>~<number>.sealed         another content of that path, or a copy beside a damaged one
erasures.sealed                      fingerprints of erased patients and reference cases, of all backups together
readers                              locked while a restore reads (deploy.operate.backup.folder_lock)
installation.sealed                  identifier of the installation whose backups these are
backups/<time>/database.sealed       dump of the database (pg_dump, custom format)
backups/<time>/files.sealed          path, name here, size and SHA-256 of each file, a JSON array a line; for an
                                     object of the object storage also true, and no name here if it is only listed
backups/<time>/manifest.sealed       written last: a folder without it is an unfinished backup
"""

from __future__ import annotations

import datetime as dt
import fcntl
import io
import itertools
import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO

from db.errors import ConfigurationError, NotPossible
from deploy.operate.backup import folder_lock, sealing
from deploy.operate.backup.contents import ERASURES, INSTALLATION, Erasures, Kept, Manifest
from deploy.operate.backup.sealing import BackupDamaged, Content
from dicom_listener.spool.durable import open_regular, sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SEALED, UNFINISHED = ".sealed", ".new"
#: Name of a backup: the time of its begin.
NAME = "%Y%m%dT%H%M%S.%fZ"
#: Copies that are opened to recognise their key.
MAX_TRIED = 100


class Repository:
    """Backups in one folder, encrypted with one key."""

    def __init__(self, root: Path, key: bytes) -> None:
        self.root = root
        self._key = key

    def prepare(self) -> None:
        """Create the folders, for their owner only."""
        for folder in (self.root, self.root / "files", self.root / "backups"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder_lock.prepare(self.root)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other backups from writing and deleting here; raises NotPossible if one does."""
        with (self.root / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise NotPossible(f"another backup is writing to {self.root}") from error
            yield

    def names(self) -> list[str]:
        """Return the names of the finished backups, the oldest first."""
        return sorted(path.parent.name for path in self.root.glob(f"backups/*/manifest{SEALED}"))

    def latest(self) -> str:
        """Return the name of the latest backup; raises ConfigurationError if there is none."""
        names = self.names()
        if not names:
            raise ConfigurationError(f"no finished backup in {self.root}: `prelim backup` makes one")
        return names[-1]

    def next_name(self, now: dt.datetime) -> tuple[str, bool]:
        """Return a name after those of all backups, and whether it is the time.

        After a clock went back, a time would name a backup that the next one deletes, and that no restore takes.
        """
        last = max(filter(None, map(_time, self.names())), default=None)
        if last is None or now > last:
            return f"{now:{NAME}}", True
        return f"{last + dt.timedelta(microseconds=1):{NAME}}", False

    def complete(self) -> list[str]:
        """Return the names of the backups that lack no file, the oldest first."""
        return [name for name in self.names() if self._has(name, lambda manifest: manifest.absent == 0)]

    def _has(self, name: str, state: Callable[[Manifest], bool]) -> bool:
        try:
            return state(self.manifest(name))
        except BackupDamaged:
            return False

    def is_compared(self) -> bool:
        """Return whether every copy of a file with a row was compared with it, which earlier releases did not do."""
        if names := self.names():
            return self._has(names[-1], lambda manifest: manifest.compared)
        return not any((self.root / "files").rglob(f"*{SEALED}"))

    def keep(self, path: Path, name: str, *, mutable: bool = False, compared: bool = False) -> tuple[str, Content]:
        """Copy the file at *path* as *name*, unless an earlier backup has it; return its name here. Raises OSError.

        A copy is never replaced: another content has another name. A file that is *mutable* has a copy for each time of
        its last change. With *compared*, only a copy with the digest of the file is one of it, otherwise one with its
        size.
        """
        with open_regular(path) as source:
            status = os.fstat(source.fileno())
            name = f"{name}.{status.st_mtime_ns}" if mutable else name
            if (found := self.kept(name, status.st_size, sealing.sha256(source) if compared else None)) is not None:
                return found
            name = next(free for free in _names(name) if not self._file(free).exists())
            with self._written(self._file(name)) as target:
                return name, sealing.seal(source, target, self._key, name)

    def kept(self, name: str, size: int | None, sha256: str | None = None) -> tuple[str, Content] | None:
        """Return name and content of the copy of *name* with this size and digest, if given; None if there is none.

        The latest, which has replaced one that is not the file of its row.
        """
        for each in reversed([*itertools.takewhile(lambda each: self._file(each).exists(), _names(name))]):
            content = self._content(each)
            if content is not None and size in (None, content.size) and sha256 in (None, content.sha256):
                return each, content
        return None

    def _content(self, name: str) -> Content | None:
        """Return the content of a copy; None if a failing disk has damaged it. Raises OSError."""
        try:
            with open_regular(self._file(name)) as sealed:
                return sealing.content(sealed, self._key, name)
        except BackupDamaged:
            return None

    def require_key(self) -> None:
        """Raise ConfigurationError if the folder has backups that the key does not open; nothing is written."""
        sealed = [(self._note(name), name) for name in (ERASURES, INSTALLATION) if self._note(name).exists()][:1]
        if not sealed:  # of interrupted backups, or of a first one
            parts = ((path, f"{path.parent.name}/{path.name.removesuffix(SEALED)}") for path in self._parts())
            files = ((path, self._name(path)) for path in (self.root / "files").rglob(f"*{SEALED}"))
            sealed = [*itertools.islice(itertools.chain(parts, files), MAX_TRIED)]
        if sealed and not any(self._opens(path, name) for path, name in sealed):
            raise ConfigurationError(
                f"{self.root} has backups that this key does not open, and nothing was changed: give the key that they"
                f" were made with, or another folder for a new key ({sealed[0][0]} is of another key, or damaged)"
            )

    def _opens(self, path: Path, name: str) -> bool:
        try:
            with open_regular(path) as sealed:
                sealing.content(sealed, self._key, name)
        except BackupDamaged:
            return False
        return True

    def restore(self, name: str, target: BinaryIO | None) -> Content:
        """Write the content of the file *name*, or only verify it; raises BackupDamaged."""
        return self._unseal(self._file(name), name, target)

    def write(self, backup: str, name: str, source: BinaryIO) -> Content:
        """Write a part of a backup."""
        path = self._part(backup, name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with self._written(path) as target:
            written = sealing.seal(source, target, self._key, f"{backup}/{name}")
        sync_directory(path.parent)
        return written

    def read(self, backup: str, name: str, target: BinaryIO | None) -> Content:
        """Read a part of a backup; raises BackupDamaged."""
        return self._unseal(self._part(backup, name), f"{backup}/{name}", target)

    def erasures(self) -> Erasures:
        """Return the erasures that a restore of any backup carries out again; raises BackupDamaged."""
        values = self.noted(ERASURES)
        if values is None:
            return Erasures({}, {})
        if isinstance(values["reference"], list):  # of an earlier release
            values["reference"] = {value: [None, None] for value in values["reference"]}
        return Erasures(**values)

    def noted(self, name: str) -> Any:
        """Return the JSON value that the folder has as *name*; None without one. Raises BackupDamaged."""
        if not self._note(name).exists():
            return None
        plain = io.BytesIO()
        self._unseal(self._note(name), name, plain)
        return json.loads(plain.getvalue())

    def note(self, name: str, value: object) -> None:
        """Replace the JSON value that the folder has as *name*."""
        with self._written(self._note(name)) as target:
            sealing.seal(io.BytesIO(json.dumps(value).encode()), target, self._key, name)
        sync_directory(self.root)

    def write_manifest(self, backup: str, manifest: Manifest) -> None:
        """Complete a backup."""
        # The entries of all folders; the bytes of each file are durable already.
        os.sync()
        with tempfile.TemporaryFile() as plain:
            plain.write(json.dumps(asdict(manifest)).encode())
            plain.seek(0)
            self.write(backup, "manifest", plain)

    def manifest(self, backup: str) -> Manifest:
        """Return the manifest of a backup; raises BackupDamaged."""
        with tempfile.TemporaryFile() as plain:
            self.read(backup, "manifest", plain)
            plain.seek(0)
            values: dict[str, Any] = json.load(plain)
            return Manifest(**values)

    def files(self, backup: str) -> Iterator[Kept]:
        """Yield the files of a backup; raises BackupDamaged."""
        with tempfile.TemporaryFile() as plain:
            self.read(backup, "files", plain)
            plain.seek(0)
            for line in plain:
                path, name, size, sha256, *is_object = json.loads(line)
                yield Kept(path, name, Content(size, sha256), bool(is_object))

    def forget(self, keep: int) -> int:
        """Delete the backups before the latest *keep* complete ones, and the files that no other has; return how many.

        Raises BackupDamaged, before anything is deleted, if the list of one that is kept cannot be read.
        """
        names, complete = self.names(), self.complete()
        # With fewer complete ones than *keep*, all stay: an incomplete one may have a file that no other has.
        kept_names = [name for name in names if len(complete) < keep or name >= complete[-keep]]
        used = {kept.name for backup in kept_names for kept in self.files(backup)}
        for name in set(names).difference(kept_names):
            # First: the rest is no backup then.
            self._part(name, "manifest").unlink()
        for folder in (self.root / "backups").iterdir():
            if folder.name not in kept_names:
                shutil.rmtree(folder)
        unused = [path for path in (self.root / "files").rglob(f"*{SEALED}") if self._name(path) not in used]
        # Of an interrupted backup, too.
        for path in (*unused, *(self.root / "files").rglob(f"*{UNFINISHED}")):
            path.unlink()
        return len(unused)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root / "files").as_posix().removesuffix(SEALED)

    def _parts(self) -> Iterator[Path]:
        return self.root.glob(f"backups/*/*{SEALED}")

    def _file(self, name: str) -> Path:
        return self.root / "files" / f"{name}{SEALED}"

    def _note(self, name: str) -> Path:
        return self.root / f"{name}{SEALED}"

    def _part(self, backup: str, name: str) -> Path:
        return self.root / "backups" / backup / f"{name}{SEALED}"

    def _unseal(self, path: Path, name: str, target: BinaryIO | None) -> Content:
        """Raise BackupDamaged if the copy is damaged; OSError if *target* cannot be written, or nothing can be read."""
        with sealing.errors_of(name):
            source = open_regular(path)
        with source:
            return sealing.unseal(source, target, self._key, name)

    @contextmanager
    def _written(self, path: Path) -> Iterator[BinaryIO]:
        """File whose durable bytes appear at *path*, or none."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_suffix(UNFINISHED)
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)


def _names(name: str) -> Iterator[str]:
    """Yield the names that copies of the file *name* may have; no file of the data directory has a tilde."""
    yield name
    yield from (f"{name}~{number}" for number in itertools.count(1))


def _time(backup: str) -> dt.datetime | None:
    """Return the time that is the name of a backup; None if it is another name, such as that of a copy."""
    try:
        return dt.datetime.strptime(backup, NAME).replace(tzinfo=dt.UTC)
    except ValueError:
        return None
