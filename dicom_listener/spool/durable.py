"""The spool directory: its layout, and durable directory entries. No sender can choose a file name in it.

    spool/slots/<host>-<k>/      files of one listener process, which holds a lock on listener.lock in it
        inbox/<uuid>.part            prepared in advance, or being received
        inbox/<uuid>[-<tag>].dcm     acknowledged, not yet indexed
        associations/<id>            mark of an open association that has sent objects
        broken_transfers/<id>        mark of an association that ended without a release
        commitments/<ids>            storage commitment result for an open association
        listener.json                status of the process: associations, refusals
    spool/inbox/                 files that the audit returned, or an earlier version received: a slot without a process
    spool/store/<xx>/<uuid>.dcm  indexed: has a row in `instances`
    spool/quarantine/<uuid>.dcm  has a row in `quarantine`
    spool/procedure_steps/<hash> state of a procedure step
    spool/objects_searched.json  how far the search for lost rows in the object storage is (recovery.lost_objects)
    spool/timeline.json          timeline of the database whose rows name all files (recovery.noted_timeline)
    spool/timeline_database.json the same with the database in its cluster, which earlier releases do not note

An object is acknowledged only when POSIX guarantees that it survives a power cut: its bytes are synced, and so is a
directory entry for them. dicom_listener.spool.inbox does both with one flush for each object.
"""

import errno
import itertools
import os
import stat
import threading
import uuid
from pathlib import Path
from typing import BinaryIO

PART = ".part"
COMPLETE = ".dcm"


class Slot:
    """Paths of one listener process, below *root*: only the owner of the lock receives files (spool.slots)."""

    def __init__(self, root: Path) -> None:
        self.root = root
        #: Files being received, and acknowledged ones that are not yet indexed.
        self.inbox = root / "inbox"
        #: Marks of associations; see dicom_listener.spool.associations.
        self.associations = root / "associations"
        self.broken_transfers = root / "broken_transfers"
        #: Storage commitment results for open associations; see dicom_listener.spool.commitment_outbox.
        self.commitments = root / "commitments"
        #: Status of the process; see dicom_listener.receive.status_file.
        self.status = root / "listener.json"
        self.lock = root / "listener.lock"

    @property
    def folders(self) -> tuple[Path, ...]:
        """Its folders."""
        return self.inbox, self.associations, self.broken_transfers, self.commitments

    def prepare(self) -> None:
        """Create the folders durably, readable by their owner only."""
        for folder in self.folders:
            folder.mkdir(mode=0o700, exist_ok=True)
        for directory in (self.root, self.root.parent):
            sync_directory(directory)


class Spool:
    """Paths below one spool directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        #: The slot without a process: of an earlier version, and of files that the audit returns.
        self.unowned = Slot(root)
        self.inbox = self.unowned.inbox
        #: Indexed files.
        self.store = root / "store"
        #: Acknowledged files that cannot become an instance of a study.
        self.quarantine = root / "quarantine"
        #: States of procedure steps; see dicom_listener.receive.n_services.
        self.procedure_steps = root / "procedure_steps"
        #: Timeline of the database whose rows name all files; see dicom_listener.recovery.noted_timeline.
        self.timeline = root / "timeline.json"
        #: How far the search for objects is whose rows were lost; see dicom_listener.recovery.lost_objects.
        self.objects_searched = root / "objects_searched.json"
        self._slots = root / "slots"

    def prepare(self) -> None:
        """Create the directories durably, readable by their owner only."""
        buckets = (self.store / f"{number:02x}" for number in range(256))
        parents = self._parents_to_sync()
        for directory in (self.inbox, self.store, *buckets, self.quarantine, self.procedure_steps, self._slots):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self.store, self.root, self.root.parent, *parents):
            sync_directory(directory)

    def slot(self, name: str) -> Slot:
        """Return the slot *name*, which need not exist."""
        return Slot(self._slots / name)

    def slots(self) -> list[Slot]:
        """Return all slots, with the one that has no process."""
        try:
            with os.scandir(self._slots) as entries:
                folders = sorted(entry.path for entry in entries if entry.is_dir())
        except FileNotFoundError:
            folders = []
        return [self.unowned, *(Slot(Path(folder)) for folder in folders)]

    def _parents_to_sync(self) -> list[Path]:
        """Return the missing parents of the data directory, and the first existing one: it gets a new entry."""
        parents = list(self.root.parent.parents)
        missing = sum(1 for _ in itertools.takewhile(lambda parent: not parent.exists(), parents))
        return parents[: missing + 1]

    def stored_path(self, received: Path) -> Path:
        """Return the path of *received* after indexing: in one of 256 directories, so that each can be listed.

        It is that of the study's key if the name has one: the files of a study then share the flush of their entries.
        """
        name, _, tag = received.stem.partition("-")
        return self.store / (tag[1:] or name)[:2] / file_name(received)

    def quarantined_path(self, received: Path) -> Path:
        """Return the path of *received* in quarantine."""
        return self.quarantine / file_name(received)


def file_name(received: Path) -> str:
    """Return the name of a received file without the tag that it has in the inbox (dicom_listener.spool.waiting)."""
    return received.stem.partition("-")[0] + COMPLETE


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file to read it; raises OSError for a pipe or a device, whose reading might never end."""
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file")
    return os.fdopen(descriptor, "rb")


def read_text(path: Path) -> str:
    """Return the text of a small regular file; raises OSError, UnicodeDecodeError."""
    with open_regular(path) as file:
        return file.read().decode()


def replace_text(path: Path, content: str, at: float | None = None) -> None:
    """Write a small file durably, at once or not at all, also beside other writers; modified *at*, without it now."""
    written = path.with_name(f"{path.name}.{uuid.uuid4()}.new")
    try:
        written.write_text(content)
        if at is not None:
            os.utime(written, (at, at))
        sync_file(written)
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Make the bytes of the file at *path* durable; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Make the entries of *directory* durable; raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class DirectorySync:
    """Make the entries of one directory durable, with one flush for all threads that wait at the same time.

    After a failed flush every later call fails: the kernel reports a lost write only once, so that the content of the
    disk is unknown until a restart reads it. If the directory cannot be opened, for lack of descriptors, nothing is
    lost, and the next call tries again.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._condition = threading.Condition()
        self._flushed = 0
        self._flushing = False
        self._failure: OSError | None = None

    def __call__(self) -> None:
        """Return when every entry made before this call is durable; raises OSError."""
        with self._condition:
            # A flush in progress may have begun before the entry was made: the next one counts.
            wanted = self._flushed + 1 + self._flushing
            while self._flushed < wanted and self._failure is None:
                if self._flushing:
                    self._condition.wait()
                else:
                    self._flush()
            if self._failure is not None:
                raise OSError(self._failure.errno, f"an earlier flush failed: {self._failure.strerror}")

    def _flush(self) -> None:
        self._flushing = True
        self._condition.release()
        try:
            failure = _failure_of_flush(self._directory)
        finally:
            self._condition.acquire()
            self._flushing = False
            self._condition.notify_all()
        self._failure = failure
        self._flushed += 1


def _failure_of_flush(directory: Path) -> OSError | None:
    """Flush *directory* and return the error of the flush; raises OSError if there was no flush."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        return error
    finally:
        os.close(descriptor)
    return None
