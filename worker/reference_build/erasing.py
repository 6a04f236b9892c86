"""Erase cases or patients from the reference index of every checkpoint; verify the indexes."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from db import reference
from db.errors import ConfigurationError
from db.session import reading, transaction
from worker.reference_build.publishing import delete_older, exclusive, new_directory, publish
from worker.retrieval import changes
from worker.retrieval.index import ReferenceIndex
from worker.retrieval.snapshot import archive_beside

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from db.models import ReferenceSnapshot
    from db.settings import Settings
    from worker.retrieval.archive import CaseArchive

#: Cases of one transaction: the reports that quote them are changed with them, and a case costs up to 0.1 s for that.
BATCH = 20


def erase(settings: Settings, *, cases: Collection[str] = (), patient: str = "") -> int:
    """Erase cases, given by id or name, or all of a patient, from the database and from the index of every checkpoint.

    They are not quoted from the moment their rows are gone, which is first. Then the vectors go, then their share in
    the statistics and every older snapshot. Their fingerprints stay, so that an import does not bring them back.
    What an interrupted command has left goes, too. Returns the number of cases; raises ConfigurationError if one is
    unknown.
    """
    with exclusive(settings):
        with reading(settings.database()) as session:
            found = reference.find_cases(session, cases, patient_hash=reference.fingerprint(patient))
            current = reference.current_snapshots(session)
        ids = [str(case_id) for case_id in found]
        extra = [*_digests(settings, current, ids), reference.fingerprint(patient)]
        for start in range(0, max(len(found), 1), BATCH):
            with transaction(settings.database()) as session:
                reference.erase_cases(session, found[start : start + BATCH], extra=extra)
        for snapshot in current:
            gone = sorted({*ids, *_without_row(settings, snapshot)})
            _without(settings, snapshot, gone)
            _archive(settings, snapshot).delete(gone)
    return len(ids)


def _without(settings: Settings, snapshot: ReferenceSnapshot, ids: Sequence[str]) -> None:
    data, digest = settings.operations.data_dir, snapshot.model_digest
    current = new_directory()
    if changes.remove_cases(data / snapshot.directory, data / current, ids, model_digest=digest):
        publish(settings, current, digest, keep=1)
    else:
        # An older snapshot may hold them.
        delete_older(settings, digest)
        current = snapshot.directory
    # Also those that an interrupted command has left.
    if families := changes.to_refit(data / current, model_digest=digest):
        directory = new_directory()
        changes.refit(data / current, data / directory, families, model_digest=digest)
        publish(settings, directory, digest, keep=1)


def _without_row(settings: Settings, snapshot: ReferenceSnapshot) -> list[str]:
    """Return the cases of a snapshot that an interrupted command has erased from the database only."""
    directory = settings.operations.data_dir / snapshot.directory
    case_ids = ReferenceIndex(directory, model_digest=snapshot.model_digest).case_ids()
    with reading(settings.database()) as session:
        rows = reference.cases(session, map(uuid.UUID, case_ids))
    return [case_id for case_id in case_ids if uuid.UUID(case_id) not in rows]


def _digests(settings: Settings, snapshots: Sequence[ReferenceSnapshot], ids: Sequence[str]) -> set[str]:
    """Return the digests of the images of cases, from whichever archive has them."""
    archives = [_archive(settings, snapshot) for snapshot in snapshots]
    return {
        digest
        for archive in archives
        for case_id in ids
        if archive.has(case_id)
        for digest in archive.read(case_id, tokens=False).digests
    }


def _archive(settings: Settings, snapshot: ReferenceSnapshot) -> CaseArchive:
    return archive_beside(settings.operations.data_dir / snapshot.directory, snapshot.model_digest)


def faults(settings: Settings) -> list[str]:
    """Return what is wrong with the current snapshots: files, digests, rows or archived cases that are missing."""
    with reading(settings.database()) as session:
        snapshots = reference.current_snapshots(session)
    return [fault for snapshot in snapshots for fault in _faults_of(settings, snapshot)]


def _faults_of(settings: Settings, snapshot: ReferenceSnapshot) -> Iterator[str]:
    directory = settings.operations.data_dir / snapshot.directory
    try:
        case_ids = ReferenceIndex(directory, model_digest=snapshot.model_digest).case_ids()
    except ConfigurationError as problem:
        yield str(problem)
        return
    with reading(settings.database()) as session:
        rows = reference.cases(session, map(uuid.UUID, case_ids))
    archive = _archive(settings, snapshot)
    for case_id in case_ids:
        if uuid.UUID(case_id) not in rows:
            yield f"case {case_id} has no row: it is never quoted; build the index again"
        try:
            archive.read(case_id)
        except ConfigurationError as problem:
            yield str(problem)
