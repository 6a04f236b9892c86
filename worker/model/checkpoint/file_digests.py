"""Files of a checkpoint: their digests, and the identity under which each was last read. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import suppress
from fnmatch import fnmatch
from typing import TYPE_CHECKING, TypedDict

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

#: Files that describe a checkpoint and are never loaded; hidden files are not loaded either.
DESCRIPTIONS = (".*", "*.md", "*.png", "*.jpg", "*.pdf", "LICENSE*", "NOTICE*")
#: The one folder of a checkpoint from which transformers reads: further chat templates.
TEMPLATES = "additional_chat_templates"
#: Identities of the files when they were last read. Hidden, and outside the manifest: they differ for each copy.
HASHED = ".prelim-hashed.json"
#: Checkpoints below this size, in bytes, are read at each start and leave no such file, for example in a source tree.
MIN_REMEMBERED_BYTES = 64 * 2**20


class Digest(TypedDict):
    """Size in bytes and hexadecimal SHA-256 of a file."""

    bytes: int
    sha256: str


def content_files(directory: Path, *, manifest: str) -> list[str]:
    """Return the relative names of all files that a loader may read, except *manifest*, sorted.

    Every file counts unless it is known not to: transformers takes adapters, templates and tokenizers from files that
    nothing else names. Raises ConfigurationError if the directory cannot be listed.
    """
    try:
        paths = [*directory.iterdir(), *(directory / TEMPLATES).glob("*")]
        return sorted(str(p.relative_to(directory)) for p in paths if p.is_file() and _is_content(p.name, manifest))
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be read: {error.strerror or error}") from error


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal; raises ConfigurationError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror or error}") from error


def digests(directory: Path, names: Iterable[str], known: Mapping[str, str]) -> dict[str, Digest]:
    """Return size and SHA-256 of the files; *known* are SHA-256 that need no reading."""
    return {
        name: {
            "bytes": (directory / name).stat().st_size,
            "sha256": known.get(name) or file_digest(directory / name),
        }
        for name in names
    }


def identity(path: Path) -> dict[str, int]:
    """Return values that change when a file is written or replaced.

    The change time is one of them: a program can set the modification time back, but not that.
    """
    found = path.stat()
    return {
        "bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }


def identities(directory: Path, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Return the identity of each file; a missing one has none."""
    found = {}
    for name in names:
        with suppress(OSError):
            found[name] = identity(directory / name)
    return found


def remembered(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of the files that are unchanged since they were last read; the others must be read."""
    try:
        entries = json.loads((directory / HASHED).read_text())
        return {
            name: str(entry["sha256"])
            for name, entry in entries.items()
            if entry["identity"] == identity(directory / name)
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def remember(directory: Path, found: Mapping[str, str], read: Mapping[str, Mapping[str, int]]) -> None:
    """Store the SHA-256 of files with the identities in *read*, so that the next start need not read them.

    Without effect for a small checkpoint or a directory that cannot be written.
    """
    if sum(entry["bytes"] for entry in read.values()) < MIN_REMEMBERED_BYTES:
        return
    entries = {name: {"identity": read[name], "sha256": digest} for name, digest in found.items() if name in read}
    partial = directory / f"{HASHED}.{uuid.uuid4().hex[:12]}"
    try:
        partial.write_text(json.dumps(entries))
        partial.chmod(0o644)
        partial.replace(directory / HASHED)
    except OSError:
        with suppress(OSError):
            partial.unlink()


def forget(directory: Path) -> None:
    """Remove the stored identities: the next start reads every file."""
    with suppress(OSError):
        (directory / HASHED).unlink()


def _is_content(name: str, manifest: str) -> bool:
    return name != manifest and not any(fnmatch(name, pattern) for pattern in DESCRIPTIONS)
