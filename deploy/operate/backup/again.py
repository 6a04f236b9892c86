"""Carry erasures from the database to the folder of the backups, and back into a restored database."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from db import reference
from db.session import reading, transaction
from db.studies.deletion import erasures
from deploy.operate.backup.repository import Erasures

if TYPE_CHECKING:
    from deploy.operate.backup.repository import Repository


def note(url: str, repository: Repository) -> None:
    """Add the erasures of the database to those of the folder."""
    known = repository.erasures()
    with reading(url) as session:
        found = erasures.every(session)
        cases = reference.every_erasure(session)
    patients = {value: when.isoformat() for value, when in found.items()}
    # What was erased in another database that was backed up here stays.
    repository.write_erasures(Erasures(known.patients | patients, cases))
    with transaction(url) as session:
        erasures.note_backup(session, found.keys())


def include(url: str, repository: Repository) -> bool:
    """Take over the erasures of the folder, to be carried out again; return whether there is one."""
    known = repository.erasures()
    with transaction(url) as session:
        erasures.include(session, {value: dt.datetime.fromisoformat(when) for value, when in known.patients.items()})
        reference.erase_owner(session, known.reference)
        return erasures.are_unfinished(session) or bool(known.reference)
