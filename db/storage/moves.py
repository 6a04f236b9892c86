"""Rows of the files to be moved to the object storage, and of the local copies to be deleted after it."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import exists, func, or_, select, text, update

from db.models import Instance
from db.models.base import any_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

    FileRow = Row[uuid.UUID, str, str]
    CopyRow = Row[str, str | None, dt.datetime | None]

#: Pause of a file that cannot be moved for a reason of its own.
SET_ASIDE = dt.timedelta(hours=1)
IS_DUE = Instance.storage_due_at <= func.clock_timestamp()
NOT_MOVED, MOVED = Instance.object_sha256.is_(None), Instance.object_sha256.is_not(None)
MARK = text("""
    UPDATE instances SET object_sha256 = done.sha256, storage_due_at = clock_timestamp() + :kept
    FROM (SELECT unnest(CAST(:paths AS text[])) AS file_path, unnest(CAST(:digests AS text[])) AS sha256) AS done
    WHERE instances.file_path = done.file_path AND object_sha256 IS NULL
    RETURNING instances.file_path
""")
#: Not of a file that was sent again since: it stays, and is due later.
DELETED = text("""
    UPDATE instances SET storage_due_at = NULL, file_bytes = coalesce(done.size, file_bytes)
    FROM (SELECT unnest(CAST(:paths AS text[])) AS file_path, unnest(CAST(:dues AS timestamptz[])) AS due_at,
        unnest(CAST(:sizes AS bigint[])) AS size) AS done
    WHERE instances.file_path = done.file_path AND storage_due_at = done.due_at AND object_sha256 IS NOT NULL
""")
WAITING = text("""
    SELECT count(*) FILTER (WHERE storage_due_at <= clock_timestamp()),
        coalesce(extract(epoch FROM clock_timestamp() - min(storage_due_at)), 0),
        count(*) FILTER (WHERE storage_due_at > clock_timestamp())
    FROM instances WHERE storage_due_at IS NOT NULL AND object_sha256 IS NULL
""")


class Waiting(NamedTuple):
    """Files that wait to be moved, age of the oldest in seconds, and files that cannot be moved for now."""

    files: int
    oldest_seconds: float
    set_aside: int


def are_due(session: Session) -> bool:
    """Return whether a file is to be moved, or a local copy to be deleted, now."""
    return session.scalar(select(or_(exists().where(NOT_MOVED, IS_DUE), exists().where(MOVED, IS_DUE)))) or False


def due(session: Session, limit: int) -> Sequence[FileRow]:
    """Return id, path and digest of files to be moved, those that wait longest first."""
    columns = Instance.id, Instance.file_path, Instance.sha256
    return session.execute(
        select(*columns).where(NOT_MOVED, IS_DUE).order_by(Instance.storage_due_at).limit(limit)
    ).all()


def mark(session: Session, digests: Mapping[str, str], kept: dt.timedelta) -> set[str]:
    """Note the objects of files, by path; return the paths of which there is no such row any more.

    The local copies are to be deleted after the time *kept*.
    """
    values = {"paths": [*digests], "digests": [*digests.values()], "kept": kept}
    return digests.keys() - set(session.scalars(MARK, values)) if digests else set()


def set_aside(session: Session, paths: Collection[str]) -> None:
    """Try files again after a pause, so that they do not delay the others."""
    later = func.clock_timestamp() + SET_ASIDE
    session.execute(update(Instance).where(Instance.file_path == any_of(paths), NOT_MOVED).values(storage_due_at=later))


def to_delete(session: Session, limit: int) -> Sequence[CopyRow]:
    """Return path, digest and time of moved files whose local copies are to be deleted."""
    columns = Instance.file_path, Instance.object_sha256, Instance.storage_due_at
    return session.execute(select(*columns).where(MOVED, IS_DUE).order_by(Instance.storage_due_at).limit(limit)).all()


def deleted(session: Session, rows: Sequence[CopyRow], sizes: Mapping[str, int]) -> None:
    """Note that the local copies of *rows* are deleted, and the *sizes* of their objects, by path.

    An object may be another size than its copy: sent again, it has another header, and the same data set.
    """
    found = [sizes.get(row.file_path) for row in rows]
    values = {"paths": [row.file_path for row in rows], "dues": [row.storage_due_at for row in rows], "sizes": found}
    session.execute(DELETED, values)


def note_size(session: Session, path: str, size: int) -> None:
    """Note the size of a file that was read back from its object."""
    session.execute(update(Instance).where(Instance.file_path == path, NOT_MOVED).values(file_bytes=size))


def adopt(session: Session, paths: Collection[str]) -> int:
    """Make local files due of which nothing was: received before there was an object storage, or left by a crash."""
    undone = Instance.file_path == any_of(paths), Instance.storage_due_at.is_(None)
    found = update(Instance).where(*undone).values(storage_due_at=func.clock_timestamp())
    return len(session.scalars(found.returning(Instance.id)).all())


def return_to_disk(session: Session, paths: Collection[str]) -> None:
    """Note that files are on local disk only, and are to be moved."""
    values = {"object_sha256": None, "storage_due_at": func.clock_timestamp()}
    session.execute(update(Instance).where(Instance.file_path == any_of(paths)).values(values))


def waiting(session: Session) -> Waiting:
    """Return what waits to be moved."""
    return Waiting(*session.execute(WAITING).one())


def alarm(found: Waiting, after_seconds: float) -> tuple[str, str] | None:
    """Return code and sentence of the alarm for files that are not moved; that of a refusal takes precedence."""
    files = "1 file" if found.files + found.set_aside == 1 else f"{found.files + found.set_aside} files"
    if found.set_aside:
        remedy = "see `storage.not_moved` in the log of `prelim dispatch`, which has the cause of each"
        return "storage_refused", f"{files} cannot be moved to the object storage: {remedy}"
    if found.oldest_seconds > after_seconds:
        since = f"the oldest for {found.oldest_seconds:.0f} s"
        remedy = "see `prelim doctor`, and the free space of the local disk"
        return "storage_waiting", f"{files} wait to be moved to the object storage, {since}: {remedy}"
    return None
