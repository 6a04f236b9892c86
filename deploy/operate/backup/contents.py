"""Content of the folder of the backups: manifests, files and erasures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from deploy.operate.backup.sealing import Content

#: Names of what the folder has beside its backups.
ERASURES, INSTALLATION = "erasures", "installation"


class Erasures(NamedTuple):
    """Fingerprints of erased patients, and of erased reference cases, with their times in ISO 8601."""

    patients: dict[str, str]
    #: Times of the erasure and of the readmission; without either if an earlier release has written them.
    reference: dict[str, list[str | None]]


class Kept(NamedTuple):
    """File of a backup: its path, its name in the folder of the backups, and its content."""

    path: str
    #: Empty if the object is only listed.
    name: str
    content: Content
    #: True if it was in the object storage.
    is_object: bool


@dataclass(frozen=True, slots=True)
class Manifest:
    """Content of one backup; times are those of the database's clock, in ISO 8601."""

    version: str
    #: Everything that was acknowledged or stored until then is in the backup.
    begun_at: str
    ended_at: str
    files: int
    bytes: int
    #: SHA-256 of the list of files, and of the dump.
    list_sha256: str
    database_sha256: str
    #: Files that belong to the backup and are not in it; the backups of earlier releases did not count all.
    absent: int = 0
    #: Every copy of a file with a row, here and in earlier backups, was compared with that row once.
    compared: bool = False
