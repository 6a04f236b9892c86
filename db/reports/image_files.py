"""Store images of reports as files below `<data_dir>/report_images/`, and read images from wherever they are.

The files of a report are durable before the transaction that inserts their rows begins, so that an image with a row has
its file. Each name holds the job and the token it was written under, of a claim or of a move (`moving`): a file without
a row is unused as soon as that has ended, and remains so, because no other transaction can insert its row (`use`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import uuid
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.exc import OperationalError

from db.errors import ImageDamaged
from db.models import FileDeletion, Job, Report, ReportImage, Study
from db.models.base import any_of
from db.session import connect, transaction
from db.states import JobState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sqlalchemy.orm import Session

    from db.connection import Connection

FOLDER = "report_images"
NAME = re.compile(r"([0-9a-f]{32})-([0-9a-f]{32})-([0-9]+)\.png")
#: Names looked up in one statement.
PAGE = 1000


class Use(StrEnum):
    """Use of a file."""

    USED = "used"
    #: Neither its row nor a claim that can insert it exists.
    UNUSED = "unused"
    #: Its job is not in this database, or its name is not ours.
    UNKNOWN = "unknown"


def write(data_dir: Path, job_id: uuid.UUID, token: uuid.UUID, images: Iterable[bytes]) -> list[str]:
    """Write the images of one report durably under a new *token*; return their paths below *data_dir*.

    Raises OSError.
    """
    folders = [Path(FOLDER), Path(FOLDER, token.hex[:2]), Path(FOLDER, token.hex[:2], token.hex[2:4])]
    for folder in folders:
        (data_dir / folder).mkdir(mode=0o700, exist_ok=True)
    paths: list[str] = []
    try:
        for ordinal, png in enumerate(images, start=1):
            paths.append((folders[-1] / f"{job_id.hex}-{token.hex}-{ordinal}.png").as_posix())
            with open(data_dir / paths[-1], "xb", opener=_private) as file:
                file.write(png)
        # After all writes: the first flush of a journal then carries the others. The parents, too: another process may
        # have created an entry that it has not flushed yet.
        for path in (*map(Path, paths), *reversed(folders), Path()):
            _flush(data_dir / path)
    except OSError:
        for path in map(Path, paths):
            with contextlib.suppress(OSError):
                (data_dir / path).unlink(missing_ok=True)
        raise
    return paths


def read(data_dir: Path, image: ReportImage) -> bytes:
    """Return the PNG of an image, loaded with its pixels; raises ImageDamaged if it is lost or another one."""
    try:
        png = image.png if image.file_path is None else _content(data_dir / image.file_path, image.file_bytes or 0)
    except FileNotFoundError as error:
        raise ImageDamaged("the file of the image is missing") from error
    except OSError as error:
        raise ImageDamaged(f"the file of the image cannot be read: {error.strerror}") from error
    if png is None or hashlib.sha256(png).hexdigest() != image.sha256:
        raise ImageDamaged("the stored image is not the one that the report is based on: its digest differs")
    return png


def remove(data_dir: Path, paths: Iterable[str]) -> None:
    """Delete files durably; one that is missing was deleted by an interrupted run. Raises OSError."""
    files = [data_dir / path for path in paths]
    for file in files:
        file.unlink(missing_ok=True)
    for folder in {file.parent for file in files}:
        if folder.exists():
            _flush(folder)


def remove_unused(url: str, data_dir: Path, path: str, *, own: bool = False) -> bool:
    """Delete a file if it is unused; return whether it was. Raises OSError.

    With *own*, the caller has written it: if its job is not in the database, a failover has lost it.
    """
    with transaction(url) as session:
        if use(session, path) not in ((Use.UNUSED, Use.UNKNOWN) if own else (Use.UNUSED,)):
            return False
    remove(data_dir, [path])
    return True


def remove_of_lost_jobs(url: str, data_dir: Path, written_after: float) -> int:
    """Delete the files written after a time whose jobs a failover has lost; return their number. Raises OSError.

    Only for a database that continues the one of the files: in another one, all jobs are unknown.
    """
    count = 0
    for page in pages(data_dir):
        found = {path: uuid.UUID(name[1]) for path in page if (name := NAME.fullmatch(Path(path).name))}
        recent = {path: job for path, job in found.items() if _written_at(data_dir / path) > written_after}
        with transaction(url) as session:
            known = set(session.scalars(select(Job.id).where(Job.id.in_(recent.values()))))
        lost = [path for path, job in recent.items() if job not in known]
        remove(data_dir, lost)
        count += len(lost)
    return count


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0


class Move:
    """Token under which files are written whose rows exist; they are in use until its connection ends."""

    def __init__(self, connection: Connection) -> None:
        self.token = uuid.uuid4()
        self._connection = connection
        connection.execute("SELECT pg_advisory_lock_shared(%s)", [_key(self.token)])

    def insist(self, session: Session) -> None:
        """Keep the files in use until the end of the transaction; raises psycopg.Error if they may not have been."""
        session.execute(select(func.pg_advisory_xact_lock_shared(_key(self.token))))
        self._connection.execute("SELECT 1")


@contextlib.contextmanager
def moving(url: str) -> Iterator[Move]:
    """Keep the files that are written under a new token in use, without a transaction; raises OperationalError."""
    try:
        with connect(url) as connection:
            yield Move(connection)
    except psycopg.Error as error:
        raise OperationalError(None, None, error) from error


def _key(token: uuid.UUID) -> int:
    """Return the key of an advisory lock: the half of the token that is random except for two bits."""
    return int.from_bytes(token.bytes[8:], signed=True)


def without_row(session: Session, paths: Sequence[str]) -> list[str]:
    """Return those of the paths that neither a row nor the note of its deletion has."""
    jobs = {uuid.UUID(found[1]) for path in paths if (found := NAME.fullmatch(Path(path).name))}
    images = select(ReportImage.file_path).join(Report, Report.id == ReportImage.report_id)
    known = set(session.scalars(images.where(Report.job_id.in_(jobs))))
    known |= set(session.scalars(select(FileDeletion.file_path).where(FileDeletion.file_path == any_of(paths))))
    return [path for path in paths if path not in known]


def use(session: Session, path: str) -> Use:
    """Return the use of a file; locks its study, as each transaction does that inserts or changes a row of an image.

    A file whose study another transaction has locked is in use: no one waits.
    """
    found = NAME.fullmatch(Path(path).name)
    if found is None:
        return Use.UNKNOWN
    job_id, token = uuid.UUID(found[1]), uuid.UUID(found[2])
    study = select(Study.id).join(Job, Job.study_id == Study.id).where(Job.id == job_id)
    if session.scalar(study.with_for_update(of=Study, skip_locked=True)) is None:
        return Use.UNKNOWN if session.scalar(study) is None else Use.USED
    if not session.scalar(select(func.pg_try_advisory_xact_lock(_key(token)))):
        return Use.USED
    # A statement of its own: it sees the commits made while the first one waited for the lock.
    writing = exists().where(Job.id == job_id, Job.claim_token == token, Job.state == JobState.RUNNING)
    stored = exists().where(
        and_(Report.job_id == job_id, ReportImage.report_id == Report.id, ReportImage.file_path == path)
    )
    return Use.USED if session.scalar(select(or_(writing, stored))) else Use.UNUSED


def pages(data_dir: Path) -> Iterator[list[str]]:
    """Yield the paths of all files, in pages; raises OSError if a folder cannot be listed."""
    names = (
        Path(folder, name).relative_to(data_dir).as_posix()
        for folder, _, files in os.walk(data_dir / FOLDER, onerror=_raise)
        for name in files
    )
    while page := list(islice(names, PAGE)):
        yield page


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _content(path: Path, size: int) -> bytes:
    with open(path, "rb", opener=_without_wait) as file:
        # One byte more than it should have, and not a file of any size.
        return file.read(size + 1)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _without_wait(path: str, flags: int) -> int:
    """Open a pipe, too, at once: it has no bytes, and so another digest."""
    return os.open(path, flags | os.O_NONBLOCK)


def _flush(path: Path) -> None:
    """Make a file's bytes or a directory's entries durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
