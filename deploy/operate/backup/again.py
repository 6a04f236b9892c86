"""Carry erasures from the database to the folder of the backups, and back into a restored database.

The folder keeps what several databases erased: a restored one lacks what was erased after its backup. Nothing in it is
forgotten; of one fingerprint the latest change holds.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from db import reference
from db.reference import Erasure
from db.session import reading, transaction
from db.studies.deletion import erasures
from deploy.operate.backup.contents import ERASURES, Erasures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.operate.backup.repository import Repository

#: Time of the erasures of a folder that an earlier release has written: it noted none.
LONG_AGO = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def note(url: str, repository: Repository) -> None:
    """Add the erasures of the database to those of the folder."""
    known = repository.erasures()
    with reading(url) as session:
        found, cases = erasures.every(session), reference.every_erasure(session)
    patients = latest_times(_read(known.patients), found)
    merged = latest_erasures(_read_cases(known.reference), cases)
    both = Erasures(
        {value: when.isoformat() for value, when in patients.items()},
        {value: [None if when is None else when.isoformat() for when in erasure] for value, erasure in merged.items()},
    )
    repository.note(ERASURES, both._asdict())
    with transaction(url) as session:
        erasures.note_backup(session, found)


def include(url: str, repository: Repository) -> bool:
    """Take over the erasures of the folder, to be carried out again; return whether there is one."""
    known = repository.erasures()
    with transaction(url) as session:
        erasures.include(session, _read(known.patients))
        merged = latest_erasures(reference.every_erasure(session), _read_cases(known.reference))
        reference.replace_erasures(session, merged)
        return erasures.are_unfinished(session) or bool(reference.of_erased(session))


def latest_times(one: Mapping[str, dt.datetime], other: Mapping[str, dt.datetime]) -> dict[str, dt.datetime]:
    """Return the erasures of patients in either, with the later time."""
    return {value: max(each[value] for each in (one, other) if value in each) for value in one.keys() | other.keys()}


def latest_erasures(one: Mapping[str, Erasure], other: Mapping[str, Erasure]) -> dict[str, Erasure]:
    """Return the erasures of reference cases in either: each as it was changed last."""
    both = {value: [each[value] for each in (one, other) if value in each] for value in one.keys() | other.keys()}
    return {value: max(found, key=lambda erasure: erasure.changed_at) for value, found in both.items()}


def _read(times: Mapping[str, str]) -> dict[str, dt.datetime]:
    return {value: dt.datetime.fromisoformat(when) for value, when in times.items()}


def _read_cases(times: Mapping[str, list[str | None]]) -> dict[str, Erasure]:
    moments = {
        value: [dt.datetime.fromisoformat(one) if one else None for one in both] for value, both in times.items()
    }
    return {value: Erasure(erased or LONG_AGO, readmitted) for value, (erased, readmitted) in moments.items()}
