"""Files of all inboxes that wait to be indexed: the name of each has its study and its urgency.

Listing the inboxes reads names only: a file is read when the turn of its study comes. The cost of a listing is limited
to a share of the time, so that a file costs the same however many others wait.

    <uuid>-<u|r><16 digits>.dcm  an object: urgent or routine, study_key of its Study Instance UID
    <uuid>.dcm                   a request of another service, or an object that cannot be read: of an unknown study

The key is a digest because names of files are logged.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import structlog

from dicom_listener.spool.durable import COMPLETE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from dicom_listener.spool.durable import Spool

log = structlog.get_logger()

URGENT, ROUTINE = "u", "r"
#: Seconds between two listings while files wait; longer if a listing takes more than a fourth of that on a processor
#: (some 250,000 names): by the clock, one slow listing on a busy machine would postpone the next one for a minute. An
#: urgent study waits for two of them at most: until its objects are found, and until none of them waits.
LISTING_SECONDS = 1.0
LISTING_SHARE = 4
#: Parts of a batch, at which files of unknown studies and urgent ones end while others wait: none must starve.
UNKNOWN_SHARE, URGENT_SHARE = 0.25, 0.75
#: Seconds of a batch: an urgent object waits for the one in progress. Files of the smallest: they share its flushes.
BATCH_SECONDS = 0.5
MIN_BATCH = 20
#: Files that a study has in its turn, in the order of their times: more than nearly any has, few enough to be read
#: within a tenth of a second. A study that never ends delays no other one.
TURN_FILES = 4000
#: First digits of studies' keys. A batch of a backlog has routine files of one: that of the oldest study, or any after
#: another dispatcher had locked files of the last batch. Two dispatchers then seldom want the same ones.
SHARDS = "0123456789abcdef"


class WaitingFile(NamedTuple):
    """A file of an inbox with its size. Sorts by time."""

    modified_ns: int
    path: Path
    bytes: int


@dataclass(slots=True)
class _Group:
    """Waiting files with one tag: those of one study, or those of unknown studies."""

    tag: str
    unread: deque[str] = field(default_factory=deque)
    #: The files of its turn.
    read: deque[WaitingFile] = field(default_factory=deque)
    #: Time of its oldest file as far as it was read, else infinite.
    modified_ns: float = math.inf

    @property
    def urgent(self) -> bool:
        """Return whether it goes before routine files."""
        return self.tag.startswith(URGENT)


def study_of(path: Path) -> str:
    """Return the key of the study of a waiting file, empty if it is unknown."""
    return _tag_of(path.name)[1:]


def _tag_of(name: str) -> str:
    return name.removesuffix(COMPLETE).partition("-")[2]


def tag(study_key: str, *, urgent: bool) -> str:
    """Return the tag of an object in the name of its file."""
    return f"-{URGENT if urgent else ROUTINE}{study_key}"


class WaitingFiles:
    """The files of all inboxes of a spool, for one dispatcher: those of no inbox are preferred."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        #: Inboxes of the files that are not taken, by name, and their number by tag.
        self._known: dict[str, Path] = {}
        self._numbers: Counter[str] = Counter()
        self._groups: dict[str, _Group] = {}
        #: By the first digit of a routine study's key, and urgency; the digit is "" for urgent and unknown studies.
        self._queues: dict[tuple[str, bool], deque[_Group]] = {}
        #: Files of the last batch, and whether another dispatcher had locked some.
        self._taken_last, self._contended = 0, False
        #: Names of files of unknown studies: those that were taken before, and those that were not.
        self._taken: set[str] = set()
        self._untried: set[str] = set()
        #: Inboxes that cannot be listed: each study could have files there.
        self.unlisted: list[Path] = []
        #: Studies of files that cannot be read now.
        self._resting: set[str] = set()
        self._due = 0.0
        self._seconds_per_file = 0.0
        #: When the oldest file was received, as time.time(); None if no file waits. Of studies that are found together,
        #: one file each of the first TURN_FILES is read.
        self.oldest_at: float | None = None

    @property
    def is_due(self) -> bool:
        """True if the inboxes should be listed again."""
        return not self._known or time.monotonic() >= self._due

    def refresh(self, resting: Collection[str] = (), set_aside: Collection[str] = ()) -> None:
        """List the inboxes: names only, and TURN_FILES files at most for the times of new studies.

        The files *resting* cannot be read now and are not taken. Their studies have waiting files, except for those of
        *set_aside*, which are in quarantine.
        """
        began = time.thread_time()
        present = self._list()
        rest = [present.pop(name) / name for name in resting if name in present]
        unread = [path for path in rest if path.name not in set_aside]
        self._resting = {study_of(path) for path in unread}
        for name in self._known.keys() - present.keys():
            self._forget(name)
        self._taken = {name for name in self._taken if name in present}
        self._add({name: present[name] for name in present.keys() - self._known.keys()})
        groups = (group.modified_ns for tag, group in self._groups.items() if tag in self._numbers)
        times = (*groups, *map(_modified_ns, unread))
        oldest = min(times, default=math.inf)
        self.oldest_at = None if math.isinf(oldest) else oldest / 1e9
        self._due = time.monotonic() + max(LISTING_SECONDS, LISTING_SHARE * (time.thread_time() - began))

    def _list(self) -> dict[str, Path]:
        """Return the inbox of each file, by name; an inbox that cannot be listed does not stop the others."""
        present: dict[str, Path] = {}
        self.unlisted = []
        for slot in self._spool.slots():
            try:
                present |= dict.fromkeys(received_in(slot.inbox), slot.inbox)
            except OSError as error:
                self.unlisted.append(slot.inbox)
                log.error("inbox.unreadable", slot=slot.root.name, error=error.strerror)  # noqa: TRY400 - of the disk
        return present

    def take(self, max_files: int, max_bytes: int) -> list[Path]:
        """Take the next files: a share of unknown studies and of urgent ones, then the others.

        The study found first goes first, of several found together the one with the oldest file.
        """
        taken: list[WaitingFile] = []
        self._move(("", False), taken, max(int(max_files * UNKNOWN_SHARE), 1), max_bytes)
        # A batch with urgent files is not filled with others beyond their share: the urgent ones would wait for them.
        if urgent_files := sum(self._numbers[group.tag] for group in self._queues.get(("", True), ())):
            max_files = min(max_files, len(taken) + math.ceil(urgent_files / URGENT_SHARE))
        backlog = len(self._known) > max_files
        self._move(("", True), taken, max(int(max_files * URGENT_SHARE), 1), max_bytes)
        for shard in self._shards():
            before = len(taken)
            self._move((shard, False), taken, max_files, max_bytes)
            if backlog and len(taken) > before:
                break
        self._move(("", False), taken, max_files, max_bytes)
        self._taken.update(file.path.name for file in taken if not study_of(file.path))
        self._taken_last = len(taken)
        return [file.path for file in taken]

    def batch_files(self, max_files: int) -> int:
        """Return the number of files for BATCH_SECONDS, by the time that the last batch took."""
        if not self._seconds_per_file:
            return max_files
        return min(max(int(BATCH_SECONDS / self._seconds_per_file), MIN_BATCH), max_files)

    def note_batch(self, files: int, seconds: float) -> None:
        """Note the time of the last batch, and how many *files* of it no other dispatcher had locked."""
        self._contended = files < self._taken_last
        if files:
            self._seconds_per_file = seconds / files

    @property
    def studies(self) -> list[str]:
        """Keys of the studies that have waiting files."""
        return list(({tag[1:] for tag in self._numbers} | self._resting) - {""})

    @property
    def has_unknown(self) -> bool:
        """Return whether a file of an unknown study waits that was not taken before."""
        return bool(self._untried)

    def _add(self, new: Mapping[str, Path]) -> None:
        self._known |= new
        found: list[_Group] = []
        for name in new:
            tag = _tag_of(name)
            self._numbers[tag] += 1
            if not tag and name not in self._taken:
                self._untried.add(name)
            if tag not in self._groups:
                self._groups[tag] = _Group(tag)
                found.append(self._groups[tag])
            self._groups[tag].unread.append(name)
        self._enqueue(found)

    def _enqueue(self, found: Iterable[_Group]) -> None:
        urgent_first = sorted(found, key=lambda group: not group.urgent)
        for group in urgent_first[:TURN_FILES]:
            name = group.unread[0]
            group.modified_ns = _modified_ns(self._known[name] / name)
        for group in sorted(urgent_first, key=lambda group: group.modified_ns):
            shard = "" if group.urgent else group.tag[1:2]
            self._queues.setdefault((shard, group.urgent), deque()).append(group)

    def _shards(self) -> list[str]:
        heads = {shard: queue[0].modified_ns for (shard, _), queue in self._queues.items() if queue}
        shards = sorted(SHARDS, key=lambda shard: heads.get(shard, math.inf))
        return random.sample(shards, len(shards)) if self._contended else shards

    def _forget(self, name: str) -> None:
        """Note that a file is taken, or gone."""
        del self._known[name]
        self._untried.discard(name)
        tag = _tag_of(name)
        self._numbers[tag] -= 1
        if not self._numbers[tag]:
            del self._numbers[tag]

    def _move(self, queue: tuple[str, bool], taken: list[WaitingFile], max_files: int, max_bytes: int) -> None:
        groups = self._queues.get(queue, deque())
        size = sum(file.bytes for file in taken)
        while groups and len(taken) < max_files:
            file = self._next(groups[0])
            if file is not None:
                if taken and size + file.bytes > max_bytes:
                    return
                groups[0].read.popleft()
                self._forget(file.path.name)
                taken.append(file)
                size += file.bytes
            if not groups[0].read:
                self._end_turn(groups)

    def _next(self, group: _Group) -> WaitingFile | None:
        """Return the next file of a turn, which begins here if it has no files yet; None if they are all gone."""
        if not group.read:
            # Requests of unknown studies depend on each other: all are sorted.
            number = min(len(group.unread), TURN_FILES) if group.tag else len(group.unread)
            names = [group.unread.popleft() for _ in range(number)]
            files = (_read(self._known[name] / name) for name in names if name in self._known)
            group.read.extend(sorted(file for file in files if file is not None))
            group.modified_ns = group.read[0].modified_ns or math.inf if group.read else math.inf
        # Another dispatcher may have removed files since.
        while group.read and group.read[0].path.name not in self._known:
            group.read.popleft()
        return group.read[0] if group.read else None

    def _end_turn(self, groups: deque[_Group]) -> None:
        group = groups.popleft()
        if group.unread:
            groups.append(group)
        else:
            del self._groups[group.tag]


def _read(path: Path) -> WaitingFile | None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    except OSError:  # one damaged file must not stop the others: the indexer sets it aside
        return WaitingFile(0, path, 0)
    return WaitingFile(status.st_mtime_ns, path, status.st_size)


def _modified_ns(path: Path) -> float:
    """Return the time of a file; infinite if it is gone or damaged."""
    file = _read(path)
    return (file and file.modified_ns) or math.inf


def received(spool: Spool) -> Iterator[Path]:
    """Yield the paths of the acknowledged files that are not yet indexed, of all slots."""
    for slot in spool.slots():
        yield from (slot.inbox / name for name in received_in(slot.inbox))


def received_in(inbox: Path, suffix: str = COMPLETE) -> Iterator[str]:
    """Yield the names of the acknowledged files of an inbox, others by *suffix*; none if it went with its slot."""
    with contextlib.suppress(FileNotFoundError), os.scandir(inbox) as entries:
        yield from (entry.name for entry in entries if entry.name.endswith(suffix))
