"""Rows that name files of the data directory: which file each has, and how a file on disk differs from its row."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import exists, null, select, tuple_

from db import reference
from db.models import Instance, Quarantined, ReferenceSnapshot, Report, ReportImage, Study
from db.models.base import any_of
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.reports import image_files
from db.session import reading
from dicom_listener.indexing import headers
from dicom_listener.spool.durable import open_regular

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    from sqlalchemy import Select
    from sqlalchemy.orm import Session

    from db.models import Process
    from db.settings import Settings

#: Rows of one page.
PAGE = 1000
KEYS: dict[type[Any], tuple[Any, ...]] = {
    Instance: (Instance.id,),
    Quarantined: (Quarantined.id,),
    ReportImage: (ReportImage.report_id, ReportImage.ordinal),
}


class StoredRow(NamedTuple):
    """File of a row, relative to the data directory."""

    table: type[Instance | Quarantined | ReportImage]
    key: tuple[Any, ...]
    file_path: str
    file_bytes: int
    #: Of a received object that of transfer syntax and data set; empty if it could not be computed.
    sha256: str
    #: As those of an instance.
    object_sha256: str | None
    storage_due_at: dt.datetime | None

    @property
    def folder(self) -> str:
        """Folder of all files of its kind."""
        parts = PurePosixPath(self.file_path).parts
        return "/".join(parts[:1] if self.table is ReportImage else parts[:2])

    def difference(self, path: Path) -> str | None:
        """Return how the file at *path* differs from the row; None if it does not. Raises OSError."""
        if not self.sha256:  # in quarantine because it cannot be read
            return None
        with open_regular(path) as file:
            if file.seek(0, 2) != self.file_bytes:
                return "another size than in its row"
            if self.table is ReportImage:
                file.seek(0)
                is_equal = hashlib.sha256(file.read()).hexdigest() == self.sha256
            else:
                is_equal = headers.digest(path).sha256 == self.sha256
        return None if is_equal else "another digest than in its row"


def every(settings: Settings) -> Iterator[StoredRow]:
    """Yield all rows with a file, in pages of transactions of their own."""
    for table, key in KEYS.items():
        query, last = _query(table).order_by(*key).limit(PAGE), None
        while True:
            with reading(settings.database()) as session:
                after = query if last is None else query.where(tuple_(*key) > last)
                page = [_row(table, found) for found in session.execute(after)]
            if not page:
                break
            yield from page
            last = page[-1].key


def are_studies(settings: Settings) -> bool:
    """Return whether the database has a study."""
    with reading(settings.database()) as session:
        return session.scalar(select(exists().select_from(Study))) or False


def again(settings: Settings, row: StoredRow) -> StoredRow | None:
    """Return the row as it is now; None if it was deleted, or names no file any more."""
    with reading(settings.database()) as session:
        found = session.execute(_query(row.table).where(tuple_(*KEYS[row.table]) == row.key)).one_or_none()
        return None if found is None else _row(row.table, found)


def named(session: Session, paths: Collection[str]) -> set[str]:
    """Return those of the paths that rows name."""
    found = {
        path
        for table in (Instance, Quarantined)
        for path in session.scalars(select(table.file_path).where(table.file_path == any_of(paths)))
    }
    names = map(image_files.NAME.fullmatch, (PurePosixPath(path).name for path in paths))
    jobs = {uuid.UUID(name[1]) for name in names if name}
    if jobs:
        images = select(ReportImage.file_path).join(Report, Report.id == ReportImage.report_id)
        found |= {path for path in session.scalars(images.where(Report.job_id.in_(jobs))) if path}
    return found


def indexes(settings: Settings) -> dict[str, bool]:
    """Return the folders of the reference indexes, relative to the data directory, and whether each is in use.

    In use is the newest one of a model that a living worker has; without a living worker, of the last one's; without
    either, the newest one of every model.
    """
    with reading(settings.database()) as session:
        folders = session.scalars(select(ReferenceSnapshot.directory)).all()
        models = _models(heartbeats.alive(session, Role.WORKER)) or _models(heartbeats.last(session, Role.WORKER))
        current = reference.current_snapshots(session)
        used = {index.directory for index in current if not models or index.model_digest in models}
        return {folder: folder in used for folder in folders}


def _models(workers: Iterable[Process]) -> set[str]:
    return {str(worker.info["model"]) for worker in workers if worker.info.get("model")}


def _query(table: type[Any]) -> Select[*tuple[Any, ...]]:
    columns = [table.file_path, table.file_bytes, table.sha256]
    moved = [Instance.object_sha256, Instance.storage_due_at] if table is Instance else [null(), null()]
    return select(*KEYS[table], *columns, *moved).where(table.file_path.is_not(None))


def _row(table: type[Any], found: Any) -> StoredRow:
    count = len(KEYS[table])
    return StoredRow(table, tuple(found[:count]), *found[count:])
