"""Files that a backup could not copy: counted by folder and cause, so that a lost volume is one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True)
class _Group:
    files: int
    #: Path of the first one.
    first: str


class _Kind(NamedTuple):
    folder: str
    cause: str
    has_earlier: bool


class Absent:
    """Files and folders that could not be copied."""

    def __init__(self) -> None:
        self._groups: dict[_Kind, _Group] = {}

    def note(self, folder: str, path: str, cause: str, *, has_earlier: bool = False) -> None:
        """Note a file below *folder*; with *has_earlier*, the backup lists the copy of an earlier one."""
        group = self._groups.setdefault(_Kind(folder, cause, has_earlier), _Group(0, path))
        group.files += 1

    def note_folder(self, path: str, cause: str) -> None:
        """Note a folder that cannot be listed; once, however often it is listed."""
        self._groups.setdefault(_Kind(path, cause, False), _Group(1, path))

    def __bool__(self) -> bool:
        return bool(self._groups)

    @property
    def files(self) -> int:
        """Number of the files that are not in the backup; a folder counts as one."""
        return sum(group.files for kind, group in self._groups.items() if not kind.has_earlier)

    def sentences(self) -> list[str]:
        """Return a sentence for each folder and cause."""
        return [_sentence(kind, group) for kind, group in self._groups.items()]


def _sentence(kind: _Kind, group: _Group) -> str:
    begin = "only as an earlier copy in the backup" if kind.has_earlier else "not in the backup"
    if group.files == 1:
        return f"{begin}: {group.first}: {kind.cause}"
    return f"{begin}: {group.files} files below {kind.folder}: {kind.cause}, the first {group.first}"
