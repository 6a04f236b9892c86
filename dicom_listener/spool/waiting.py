"""Files of all inboxes that wait to be indexed: each is listed once, and its name has its study and its urgency.

    <uuid>-<u|r><16 digits>.dcm  an object: urgent or routine, study_key of its Study Instance UID
    <uuid>.dcm                   a request of another service, or an object recovered after a crash: of an unknown study

The key is a digest because names of files are logged.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dicom_listener.spool.durable import COMPLETE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dicom_listener.spool.durable import Spool

URGENT, ROUTINE = "u", "r"
#: Seconds between two listings while files wait; longer if a listing takes more than a fourth of that. An urgent study
#: waits for two of them beyond its quiet time: until its objects are found, and until none of them waits.
LISTING_SECONDS = 1.0
LISTING_SHARE = 4
#: Part of a batch that urgent files can take: the others must not starve.
URGENT_SHARE = 0.75
#: Seconds of a batch: an urgent object waits for the one in progress. Files of the smallest: they share its flushes.
BATCH_SECONDS = 0.5
MIN_BATCH = 20
#: Routine files of a backlog are taken by the first digit of their study's key, each dispatcher beginning at another
#: one: two dispatchers then seldom read the same file or wait for the lock of the same study.
SHARDS = "0123456789abcdef"


class WaitingFile(NamedTuple):
    """A file of an inbox; *study* is the key of its study, empty if it is unknown. Sorts by time."""

    modified_ns: int
    name: str
    inbox: Path
    bytes: int
    study: str
    urgent: bool


def study_of(path: Path) -> str:
    """Return the key of the study of a waiting file, empty if it is unknown."""
    return path.stem.partition("-")[2][1:]


def tag(study_key: str, *, urgent: bool) -> str:
    """Return the tag of an object in the name of its file."""
    return f"-{URGENT if urgent else ROUTINE}{study_key}"


class WaitingFiles:
    """The files of all inboxes of a spool, for one dispatcher: those of no inbox are preferred."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._known: dict[str, WaitingFile] = {}
        #: By the first digit of the study's key; "" for unknown studies.
        self._queues: dict[tuple[str, bool], deque[WaitingFile]] = {}
        self._shard = random.randrange(len(SHARDS))  # noqa: S311 - not cryptographic
        #: Names of files of unknown studies that were taken before.
        self._taken: set[str] = set()
        #: Studies of files that cannot be read now.
        self._resting: set[str] = set()
        self._due = 0.0
        self._seconds_per_file = 0.0
        #: When the oldest file was received, as time.time(); None if no file waits.
        self.oldest_at: float | None = None

    @property
    def is_due(self) -> bool:
        """Return whether the inboxes should be listed again."""
        return not self._known or time.monotonic() >= self._due

    def refresh(self, resting: Collection[str] = (), set_aside: Collection[str] = ()) -> None:
        """List the inboxes: only new files cost more than the reading of their names.

        The files *resting* cannot be read now and are not taken. Their studies have waiting files, except for those of
        *set_aside*, which are in quarantine.
        """
        began = time.monotonic()
        inboxes = {name: slot.inbox for slot in self._spool.slots() for name in received_in(slot.inbox)}
        unread = inboxes.keys() & set(resting) - set(set_aside)
        self._resting = {study_of(Path(name)) for name in unread}
        present = inboxes.keys() - set(resting)
        for name in self._known.keys() - present:
            del self._known[name]
        self._taken &= present
        new = present - self._known.keys()
        found = [file for name in new if (file := _read(inboxes[name] / name)) is not None]
        for file in sorted(found):
            self._known[file.name] = file
            self._queues.setdefault((file.study[:1], file.urgent), deque()).append(file)
        rest = [file for name in unread if (file := _read(inboxes[name] / name)) is not None]
        times = (file.modified_ns for file in (*self._known.values(), *rest) if file.modified_ns)
        self.oldest_at = None if (oldest := min(times, default=None)) is None else oldest / 1e9
        self._due = time.monotonic() + max(LISTING_SECONDS, LISTING_SHARE * (time.monotonic() - began))

    def take(self, max_files: int, max_bytes: int) -> list[Path]:
        """Take the next files: of unknown studies, then urgent ones, then the others; the oldest of each first."""
        taken: list[WaitingFile] = []
        self._move(("", False), taken, max_files, max_bytes)
        # A batch with urgent files is not filled with others beyond their share: the urgent ones would wait for them.
        urgent_files = sum(len(files) for (_, urgent), files in self._queues.items() if urgent)
        if urgent_files:
            max_files = min(max_files, len(taken) + math.ceil(urgent_files / URGENT_SHARE))
        shards = SHARDS[self._shard :] + SHARDS[: self._shard]
        backlog = len(self._known) > max_files
        for shard in shards:
            self._move((shard, True), taken, max(int(max_files * URGENT_SHARE), 1), max_bytes)
        for shard in shards:
            before = len(taken)
            self._move((shard, False), taken, max_files, max_bytes)
            if backlog and len(taken) > before:
                self._shard = (SHARDS.index(shard) + 1) % len(SHARDS)
                break
        self._taken.update(file.name for file in taken if not file.study)
        return [file.inbox / file.name for file in taken]

    def batch_files(self, max_files: int) -> int:
        """Return the number of files for BATCH_SECONDS, by the time that the last batch took."""
        if not self._seconds_per_file:
            return max_files
        return min(max(int(BATCH_SECONDS / self._seconds_per_file), MIN_BATCH), max_files)

    def note_batch(self, files: int, seconds: float) -> None:
        """Note how long a batch took."""
        if files:
            self._seconds_per_file = seconds / files

    @property
    def studies(self) -> list[str]:
        """Keys of the studies that have waiting files."""
        return list(({file.study for file in self._known.values()} | self._resting) - {""})

    @property
    def has_unknown(self) -> bool:
        """Return whether a file of an unknown study waits that was not taken before."""
        return any(not file.study and file.name not in self._taken for file in self._known.values())

    def _move(self, queue: tuple[str, bool], taken: list[WaitingFile], max_files: int, max_bytes: int) -> None:
        waiting = self._queues.get(queue, deque())
        size = sum(file.bytes for file in taken)
        while waiting and len(taken) < max_files and (not taken or size + waiting[0].bytes <= max_bytes):
            file = waiting.popleft()
            # Another dispatcher may have removed it, or the file may be listed anew.
            if self._known.get(file.name) is file:
                del self._known[file.name]
                taken.append(file)
                size += file.bytes


def _read(path: Path) -> WaitingFile | None:
    try:
        status = path.lstat()
        modified, size = status.st_mtime_ns, status.st_size
    except FileNotFoundError:
        return None
    except OSError:  # one damaged file must not stop the others: the indexer sets it aside
        modified = size = 0
    _, _, tagged = path.stem.partition("-")
    return WaitingFile(modified, path.name, path.parent, size, tagged[1:], tagged.startswith(URGENT))


def received(spool: Spool) -> Iterator[Path]:
    """Yield the paths of the acknowledged files that are not yet indexed, of all slots."""
    for slot in spool.slots():
        yield from (slot.inbox / name for name in received_in(slot.inbox))


def received_in(inbox: Path) -> Iterator[str]:
    """Yield the names of the acknowledged files of one inbox; none if it was removed with its slot."""
    with contextlib.suppress(FileNotFoundError), os.scandir(inbox) as entries:
        yield from (entry.name for entry in entries if entry.name.endswith(COMPLETE))
