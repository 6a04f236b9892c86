"""Encrypt files: AES-256-GCM in chunks, under a key of its own for each file.

    8 bytes    MAGIC
    16 bytes   salt: HKDF-SHA256 makes the key of the file from it and the key of the backups
    chunks     of CHUNK bytes, the last one shorter, each with a tag of 16 bytes
    48 bytes   SHA-256 of the content, with a tag

Nonces count the chunks, and that of the digest is marked: a chunk that is missing, repeated or of another file fails.
The name of the file is authenticated with each chunk, so that no file can take the place of another.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from db.environment import SECRETS_DIRECTORY
from db.errors import ConfigurationError, PrelimError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC = b"PRELIM1\n"
SALT, TAG, DIGEST, KEY = 16, 16, 32, 32
HEAD, TAIL = len(MAGIC) + SALT, DIGEST + TAG
CHUNK = 1 << 20
#: Errors of one file that is missing, unreadable or no file; others, as of a full disk or a lost mount, pass.
OF_ONE_FILE = frozenset((errno.ENOENT, errno.EIO, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.ELOOP))


class BackupDamaged(PrelimError):
    """Raised when a file of a backup is damaged, missing, or encrypted with another key."""


@dataclass(frozen=True, slots=True)
class Content:
    """Size and SHA-256, in hex, of the content of a file."""

    size: int
    sha256: str


def read_key(path: Path) -> bytes:
    """Return the key of the backups; raises ConfigurationError."""
    try:
        key = bytes.fromhex(path.read_text())
    except (OSError, ValueError):
        key = b""
    if len(key) != KEY:
        raise ConfigurationError(
            f"no key of 64 hexadecimal digits in {path}: create it with `openssl rand -hex 32`, readable by its owner"
            " only, and keep a copy apart from the backups, which cannot be read without it"
        )
    return key


def readers(path: Path) -> str | None:
    """Return which users beside the owner can read the key; None if none can.

    The modes of /run/secrets are those of the container engine.
    """
    if path.absolute().is_relative_to(SECRETS_DIRECTORY):
        return None
    mode = path.stat().st_mode
    if mode & stat.S_IROTH:
        return "every user"
    return "a group" if mode & stat.S_IRGRP else None


@contextmanager
def errors_of(name: str) -> Iterator[None]:
    """Raise BackupDamaged within the block, which reads only the file *name*, for an error of this one file."""
    try:
        yield
    except OSError as error:
        if error.errno not in OF_ONE_FILE:
            raise
        raise BackupDamaged(f"{name} of the backup cannot be read: {error.strerror}") from error


def seal(source: BinaryIO, target: BinaryIO, key: bytes, name: str) -> Content:
    """Encrypt *source* to *target* as the file *name*; return what was read."""
    salt, digest, size, number = os.urandom(SALT), hashlib.sha256(), 0, 0
    cipher = _cipher(key, salt)
    target.write(MAGIC + salt)
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(cipher.encrypt(_nonce(number), chunk, name.encode()))
        size, number = size + len(chunk), number + 1
    target.write(cipher.encrypt(_nonce(number, last=True), digest.digest(), name.encode()))
    return Content(size, digest.hexdigest())


def unseal(source: BinaryIO, target: BinaryIO | None, key: bytes, name: str) -> Content:
    """Decrypt the file *name* to *target*, or only verify it; raises BackupDamaged, and *target* is then incomplete."""
    cipher, left = _open(source, key, name)
    digest, size, number = hashlib.sha256(), 0, 0
    while left > 0:
        sealed = _read(source, min(left, CHUNK + TAG), name)
        chunk = _decrypt(cipher, _nonce(number), sealed, name)
        digest.update(chunk)
        if target is not None:
            target.write(chunk)
        left, size, number = left - len(sealed), size + len(chunk), number + 1
    last = _decrypt(cipher, _nonce(number, last=True), _read(source, -1, name), name)
    if last != digest.digest():
        raise BackupDamaged(f"{name} of the backup is damaged")
    return Content(size, digest.hexdigest())


def content(source: BinaryIO, key: bytes, name: str) -> Content:
    """Return size and digest of the content of the file *name* without reading it; raises BackupDamaged."""
    cipher, left = _open(source, key, name)
    chunks = -(-left // (CHUNK + TAG))
    source.seek(left, os.SEEK_CUR)
    digest = _decrypt(cipher, _nonce(chunks, last=True), _read(source, -1, name), name)
    return Content(left - chunks * TAG, digest.hex())


def sha256(file: BinaryIO) -> str:
    """Return the SHA-256 of a file that is not encrypted, in hex; its position is at the beginning afterwards."""
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def _open(source: BinaryIO, key: bytes, name: str) -> tuple[AESGCM, int]:
    """Return the cipher of a file, and the number of bytes of its chunks."""
    head = _read(source, HEAD, name)
    left = os.fstat(source.fileno()).st_size - HEAD - TAIL
    if not head.startswith(MAGIC) or left < 0:
        raise BackupDamaged(f"{name} of the backup is damaged")
    return _cipher(key, head[len(MAGIC) :]), left


def _read(source: BinaryIO, size: int, name: str) -> bytes:
    with errors_of(name):
        return source.read(size)


def _cipher(key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(HKDF(SHA256(), KEY, salt, b"prelim backup").derive(key))


def _nonce(number: int, *, last: bool = False) -> bytes:
    return number.to_bytes(11) + bytes([last])


def _decrypt(cipher: AESGCM, nonce: bytes, sealed: bytes, name: str) -> bytes:
    try:
        return cipher.decrypt(nonce, sealed, name.encode())
    except (InvalidTag, ValueError) as error:
        raise BackupDamaged(f"{name} of the backup is damaged, or encrypted with another key") from error
