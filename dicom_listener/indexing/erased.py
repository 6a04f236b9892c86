"""Drop received objects of patients that were erased after they arrived: they came from a backup, or had waited."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import structlog
from sqlalchemy import func, select

from db.session import statements, transaction
from db.studies.deletion import erasures, file_deletions
from db.studies.lifecycle import ReceivedInstance

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sqlalchemy.orm import Session

    from dicom_listener.indexing.n_service_events import Record

log = structlog.get_logger()
Found = TypeVar("Found")


def no_row(session: Session) -> None:
    """Make no row: the record of an object that is dropped."""
    del session


def without_erased(url: str, read: dict[Path, Found]) -> dict[Path, Found | Record]:
    """Return *read* with `no_row` instead of the objects of erased patients."""
    prints = {path: erasures.of_study(one.study) for path, one in read.items() if isinstance(one, ReceivedInstance)}
    if not prints:
        return dict(read)
    with statements(url) as session:
        erased = erasures.erased_at(session, set().union(*prints.values()))
        now = session.scalars(select(func.clock_timestamp())).one()
    gone = {path: found for path, found in read.items() if _is_erased(found, erased, now)}
    _note_objects(url, [one for one in gone.values() if isinstance(one, ReceivedInstance)])
    return {path: no_row if path in gone else found for path, found in read.items()}


def _note_objects(url: str, gone: Sequence[ReceivedInstance]) -> None:
    """Note objects that can be in the object storage: the file came from there, or was moved before a restore."""
    paths = [one.file_path for one in gone if one.storage_due_at is not None]
    if paths:
        with transaction(url) as session:
            file_deletions.note_objects(session, paths)


def _is_erased(found: object, erased: Mapping[str, dt.datetime], now: dt.datetime) -> bool:
    if not isinstance(found, ReceivedInstance):
        return False
    gone = erasures.is_covered(erased, erasures.of_study(found.study), found.received_at, now)
    if gone:
        log.info("index.erased", association_id=found.association_id)
    return gone
