"""Find the bytes of a received object: its local file or, if it was moved, its object in the bucket.

The door of every reader of stored files. A file that was moved is read into a cache with a limit, below the data
directory, and its digest is verified. What is in use is never removed from the cache: each user has a file with a lock
there, and what was used since the oldest of them began stays.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import os
import re
import shutil
import threading
import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from db.made_once import MadeOnce
from db.storage import object_cache
from db.storage.errors import Damaged, Missing, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.settings import Settings
    from db.settings.object_storage import Storage
    from db.storage.bucket import Bucket, Stored

#: Folder of the files that are moved, relative to the data directory; a key is the path below it.
STORE = "spool/store/"
#: Time before its deletion from which a local file is pinned for its readers: no reader takes longer.
PINNED = dt.timedelta(hours=1)
#: Between folder and name of a file in the cache; names begin with it nowhere else.
SEPARATOR = "_"
#: Keys of stored files: any other is that of another program, or could lead out of the store.
KEY = re.compile(r"[0-9a-z]{2}/[^/]+\.dcm")


class Moved(Protocol):
    """Columns of an instance about its object."""

    @property
    def file_path(self) -> str: ...  # noqa: D102
    @property
    def object_sha256(self) -> str | None: ...  # noqa: D102


class StoredFile(Moved, Protocol):
    """Columns of an instance about its file."""

    @property
    def storage_due_at(self) -> dt.datetime | None: ...  # noqa: D102


def key(file_path: str) -> str:
    """Return the key of a stored file: its path below the store, without anything of a patient."""
    return PurePosixPath(file_path).relative_to(STORE).as_posix()


def file_path(key: str) -> str:
    """Return the path of an object's file, relative to the data directory."""
    return STORE + key


def cache_name(file_path: str) -> str:
    """Return the name in the cache of a stored file."""
    return key(file_path).replace("/", SEPARATOR)


def bucket(settings: Settings) -> Bucket | None:
    """Return the bucket of the settings; None without one."""
    return None if settings.storage.storage_url is None else _bucket(settings.storage)


def required(found: Bucket | None) -> Bucket:
    """Return the bucket; raises Unavailable without one."""
    if found is None:
        raise Unavailable(
            "objects are in an object storage: set PRELIM_STORAGE_URL and its keys, as for the dispatcher"
        )
    return found


@MadeOnce
def _bucket(storage: Storage) -> Bucket:
    # Only here: a process without an object storage imports no HTTP client.
    from db.storage.bucket import Bucket  # noqa: PLC0415
    from db.storage.s3_connections import Place  # noqa: PLC0415
    from db.storage.signing import Credentials  # noqa: PLC0415

    name, region = storage.bucket, storage.storage_region
    access, secret = storage.storage_access_key, storage.storage_secret_key
    if storage.storage_endpoint is None:
        place = Place(secure=True, host=f"{name}.s3.{region}.amazonaws.com", port=None, base="")
    else:
        parts = urlsplit(storage.storage_endpoint)
        place = Place(parts.scheme == "https", parts.hostname or "", parts.port, f"/{name}")
    credentials = Credentials(
        access.get_secret_value() if access else "", secret.get_secret_value() if secret else "", region
    )
    return Bucket(place, name, storage.prefix, credentials, storage.storage_ca_file)


def opened(settings: Settings) -> contextlib.closing[Files]:
    """Files that stay readable within the block."""
    return contextlib.closing(Files(settings))


def bring_back(settings: Settings, row: StoredFile) -> Path:
    """Return the local path of a file, to which its object is read if it was moved; raises StorageError, OSError."""
    local = settings.operations.data_dir / row.file_path
    if row.object_sha256 is not None and not local.exists():
        with opened(settings) as files:
            path = files.path(row)
            part = object_cache.part(local)
            with path.open("rb") as source, part.open("xb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
                target.flush()
                os.fsync(target.fileno())
            part.replace(local)
    return local


class Files:
    """Stored files of one reader; its paths are valid until it is closed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data_dir = settings.operations.data_dir
        self._cache = self._data_dir / object_cache.CACHE
        self._beginning = threading.Lock()
        self._user: int | None = None
        self._user_path: Path | None = None
        #: Second paths of local files that are not moved yet.
        self._pins: list[Path] = []

    def path(self, row: StoredFile) -> Path:
        """Return a path with the bytes of an object, which need not exist if it has only been on local disk.

        Raises Unavailable if the object storage or the cache cannot be used now; Missing and Damaged.
        """
        local = self._data_dir / row.file_path
        if row.object_sha256 is None:
            return local if row.storage_due_at is None else self._unmoved(row, local, row.storage_due_at)
        stays = row.storage_due_at is not None and row.storage_due_at > dt.datetime.now(dt.UTC) + PINNED
        if stays and local.exists():
            return local
        try:
            self._begin()
            cached = self._cache / cache_name(row.file_path)
            return cached if object_cache.use(cached) else self._pin(local, cached) or self._fetch(row, cached)
        except OSError as error:
            raise Unavailable(f"the cache {self._cache} cannot be used: {error.strerror}") from error

    def _unmoved(self, row: StoredFile, local: Path, due_at: dt.datetime) -> Path:
        """Return a path of a file that may be moved, and its local copy deleted, while it is read."""
        with contextlib.suppress(OSError):  # the cache is on another disk, which may be full
            self._begin()
            if pin := self._pin(local, self._cache / cache_name(row.file_path)):
                return pin
        # The mover sets a lost file aside, and it is due later.
        is_moved = not local.exists() and due_at <= dt.datetime.now(dt.UTC)
        if is_moved and self._settings.storage.storage_url is not None:
            raise Unavailable("the file was moved since its row was read, or is lost")
        return local

    def _pin(self, local: Path, cached: Path) -> Path | None:
        """Return a second path of a local file, which may be deleted soon; None if it is moved, or on another disk.

        Of this reader alone: a resent object may replace the file, with another header than that of its object.
        """
        pin = object_cache.part(cached)
        try:
            os.link(local, pin)
        except OSError:
            return None
        self._pins.append(pin)
        return pin if object_cache.use(pin) else None

    def lost(self, row: StoredFile) -> Path:
        """Return the local path of a file, for one that cannot be had."""
        return self._data_dir / row.file_path

    def close(self) -> None:
        """End the use of the paths."""
        while self._pins:
            self._pins.pop().unlink(missing_ok=True)
        if self._user is not None and self._user_path is not None:
            self._user_path.unlink(missing_ok=True)
            os.close(self._user)
            self._user = None

    def _begin(self) -> None:
        """Note in the cache that it is in use; once, for all threads."""
        with self._beginning:
            if self._user is None:
                self._enter()

    def _enter(self) -> None:
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._user_path = self._cache / f"{uuid.uuid4()}{object_cache.USER}"
        self._user = os.open(self._user_path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._user, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _fetch(self, row: StoredFile, cached: Path) -> Path:
        """Read an object into the cache, a second time if it arrives damaged."""
        for _ in range(2):
            with downloaded(self._settings, row.file_path) as (part, sha256):
                if sha256 == row.object_sha256:
                    _keep(part, cached)
                    object_cache.shrink(self._cache, int(self._settings.storage.storage_cache_gib * 2**30))
                    return cached
        name = required(bucket(self._settings)).name
        raise Damaged(f"{name} has another object as {key(row.file_path)}: restore it from a backup")


def is_whole(settings: Settings, row: Moved, found: Stored | None, size: int) -> bool:
    """Return whether the bucket has the object of a row: of its digest, which is read if the size is another one.

    *size* is that of a local file, which may have another header than the object. Raises Unavailable, OSError.
    """
    if found is None or found.sha256 != row.object_sha256:
        return False
    if found.size == size:
        return True
    try:
        with downloaded(settings, row.file_path) as (_, sha256):
            return sha256 == row.object_sha256
    except Missing:
        return False


@contextlib.contextmanager
def downloaded(settings: Settings, file_path: str) -> Iterator[tuple[Path, str]]:
    """Path and SHA-256 of the object of a file, read for this block; raises Missing, Unavailable, OSError."""
    source, cache = required(bucket(settings)), settings.operations.data_dir / object_cache.CACHE
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = object_cache.part(cache / cache_name(file_path))
    try:
        yield part, _download(source, key(file_path), part)
    finally:
        part.unlink(missing_ok=True)


def _download(source: Bucket, name: str, path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:

        def take(block: bytes) -> None:
            digest.update(block)
            file.write(block)

        source.get(name, take)
        # What is in the cache is not verified again: a power cut must leave none of it cut.
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _keep(part: Path, cached: Path) -> None:
    try:
        part.replace(cached)
    except FileNotFoundError as error:
        raise Missing("the object was deleted while it was read") from error
