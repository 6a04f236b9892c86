"""List the files in quarantine, and take the demographics of a corrected object (`prelim quarantine`)."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import warnings
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sqlalchemy import select

from db.errors import NotPossible, Reason, UnknownStudy
from db.models import Instance, Quarantined
from db.operations import quarantine
from db.session import reading, transaction
from db.storage import object_files
from db.storage.errors import StorageError
from db.studies import lifecycle
from db.studies.deletion import file_deletions
from db.studies.identity import replacement
from deploy.launcher import lost_database
from deploy.operate.audit_log.command_entries import user
from dicom_listener.dicom.statuses import Refusal
from dicom_listener.indexing import headers
from dicom_listener.spool.durable import Spool, open_regular, sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rich.console import Console
    from sqlalchemy.orm import Session

    from db.settings import Settings
    from db.studies.lifecycle import ReceivedInstance

#: Native encodings that give equal pixels equal bytes.
LITTLE_ENDIAN = frozenset((ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian))
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
#: Group of the elements that say how pixels are to be read (PS3.3 C.7.6.3).
IMAGE_GROUP = 0x0028
#: Objects taken for one study.
MAX_OBJECTS = 100_000


@dataclass(frozen=True, slots=True)
class Pair:
    """A file in quarantine, relative to the data directory, and the stored instance of the same SOP Instance UID."""

    quarantined_id: uuid.UUID
    new: str
    stored: Instance


def show(settings: Settings, console: Console, *, limit: int, as_json: bool) -> None:
    """Print the files in quarantine, the latest first, without patient attributes."""
    with reading(settings.database()) as session:
        found = quarantine.files(session, limit=limit)
    if as_json:
        console.print_json(json.dumps([asdict(file) for file in found], default=str))
        return
    for file in found:
        line = f"{file.id} {file.received_at:%Y-%m-%d %H:%M %Z} {file.calling_ae_title} {file.reason}: {file.detail}"
        study = f" (study {file.study_id})" if file.study_id else ""
        console.print(line + study, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{len(found)} files shown", highlight=False)


def take(settings: Settings, console: Console, name: str) -> int:
    """Replace stored objects by corrected ones with the same pixels; return the number that could not be replaced.

    *name* is the id of a file in quarantine, or names a study. Raises UnknownStudy; ConfigurationError
    if the data directory is not that of the database; BackupRunning
    and OSError if the old paths of the replaced objects stay until the next deletion.
    """
    lost_database.require_files(settings)
    with reading(settings.database()) as session:
        pairs = _pairs(session, name)
    failed = 0
    for pair in pairs:
        try:
            _take(settings, pair)
        except (NotPossible, StorageError) as error:
            failed += 1
            console.print(f"{pair.quarantined_id}: {error}", markup=False, highlight=False)
    console.print(f"{len(pairs) - failed} of {len(pairs)} objects replaced", highlight=False)
    failure = file_deletions.delete_files(settings)
    if failure is not None:
        raise failure
    return failed


def _pairs(session: Session, name: str) -> list[Pair]:
    query = (
        select(Quarantined.id, Quarantined.file_path, Instance)
        .join(Instance, Instance.sop_instance_uid == Quarantined.sop_instance_uid)
        .where(Quarantined.reason == Reason.CONFLICTING_SOP_INSTANCE)
        .order_by(Quarantined.received_at.desc())
        .limit(MAX_OBJECTS)
    )
    with contextlib.suppress(ValueError):
        found = session.execute(query.where(Quarantined.id == uuid.UUID(name))).all()
        if found:
            return [Pair(*found[0])]
    try:
        study = lifecycle.find(session, name)
    except UnknownStudy as error:
        raise UnknownStudy(f"no conflicting file in quarantine has this id, and {error}") from error
    # Of several versions of one object the latest; none that is older than the stored one.
    newer = Instance.study_id == study.id, Quarantined.received_at > Instance.received_at
    latest: dict[str, Pair] = {}
    for row in session.execute(query.where(*newer)):
        latest.setdefault(row.Instance.sop_instance_uid, Pair(*row))
    return list(latest.values())


def _take(settings: Settings, pair: Pair) -> None:
    """Exchange the two files; after an interruption at any point `prelim audit --repair` restores one row a file.

    Each has both paths until the rows are exchanged, so that no transaction is open while files are linked.
    """
    data_dir, spool = settings.operations.data_dir, Spool(settings.spool)
    new, old = data_dir / pair.new, data_dir / pair.stored.file_path
    object_files.bring_back(settings, pair.stored)
    _require_same_pixels(old, new)
    stored, set_aside = spool.stored_path(new), spool.quarantine / old.name
    received = _read(settings, new, stored.relative_to(data_dir).as_posix())
    old_path = set_aside.relative_to(data_dir).as_posix()
    links = {new: stored, old: set_aside}
    _link(links)
    try:
        with transaction(settings.database()) as session:
            # The object of the old file is deleted with it, and found by the row that still has it.
            file_deletions.note(session, [pair.new, pair.stored.file_path])
            replacement.replace(
                session, pair.quarantined_id, received, (pair.stored.file_path, old_path), f"user {user()}"
            )
    except NotPossible:
        _remove_unnamed(settings, links.values())
        raise
    # An audit may have removed a link that had no row yet.
    _link(links)


def _link(links: dict[Path, Path]) -> None:
    for path, link in links.items():
        with contextlib.suppress(FileExistsError):  # of an interrupted run, or of another one at the same time
            os.link(path, link)
        sync_directory(link.parent)


def _remove_unnamed(settings: Settings, links: Iterable[Path]) -> None:
    """Remove those of the links that no row names: another run may have exchanged the files."""
    paths = {link.relative_to(settings.operations.data_dir).as_posix(): link for link in links}
    with reading(settings.database()) as session:
        named = {
            path
            for rows in (Instance, Quarantined)
            for path in session.scalars(select(rows.file_path).where(rows.file_path.in_(paths)))
        }
    for path in paths.keys() - named:
        paths[path].unlink(missing_ok=True)


def _read(settings: Settings, path: Path, file_path: str) -> ReceivedInstance:
    try:
        return headers.read(path, headers.read_meta(path), file_path, settings)
    except (ValueError, Refusal) as error:
        raise NotPossible(f"the file cannot be indexed: {error}") from error


def _require_same_pixels(old: Path, new: Path) -> None:
    """Raise NotPossible unless the two objects differ in their headers only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values, which may be a patient's
            with open_regular(old) as first, open_regular(new) as second:
                stored, corrected = dcmread(first), dcmread(second)
            different = _first_difference(stored, corrected)
    # The boundary of one file: pydicom raises many types of exceptions for malformed data sets.
    except Exception as error:
        raise NotPossible(f"the two objects cannot be compared ({type(error).__name__})") from error
    if different is not None:
        raise NotPossible(f"the two objects differ in more than their demographics: {different}")


def _first_difference(stored: Dataset, corrected: Dataset) -> str | None:
    for name in ("SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if stored.get(name) != corrected.get(name):
            return name
    syntaxes = {stored.file_meta.TransferSyntaxUID, corrected.file_meta.TransferSyntaxUID}
    if len(syntaxes) > 1 and not syntaxes <= LITTLE_ENDIAN:
        return "TransferSyntaxUID"
    if not any(name in stored for name in PIXELS):
        return "they have no pixels to compare"
    if stored.group_dataset(IMAGE_GROUP) != corrected.group_dataset(IMAGE_GROUP):
        return "the description of the pixels"
    return next((name for name in PIXELS if stored.get(name) != corrected.get(name)), None)
