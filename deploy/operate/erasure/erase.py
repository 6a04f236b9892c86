"""Erase one patient (`prelim erase`): in steps that can be interrupted anywhere and are gone through again.

First a fingerprint of the patient is recorded. From then on, everything of the patient that arrived before is erased
wherever it is found: by this command, by the same command after an interruption, by the indexer for files that wait,
and by a restore.
"""

from __future__ import annotations

import datetime as dt
import itertools
import time
import uuid
from typing import TYPE_CHECKING, NamedTuple

import structlog
from sqlalchemy import exists, func, select

from db import reference
from db.errors import NotPossible
from db.limits import MAX_SKEW
from db.models import Backup, PatientErasure
from db.session import reading, transaction
from db.studies.deletion import erasures, file_deletions, patients
from deploy.launcher import lost_database
from deploy.operate import report_images
from deploy.operate.audit_log import command_entries
from deploy.operate.erasure import unnamed_files
from dicom_listener.indexing import indexer
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.waiting import received

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from db.settings import Settings
    from db.studies.deletion.patients import Found

log = structlog.get_logger()

#: Studies of one transaction.
BATCH = 10
#: Seconds after which an indexer that began before the erasure was recorded has ended its transaction.
INDEXER_SECONDS = 1.0


class Amount(NamedTuple):
    """Number of what was erased."""

    studies: int = 0
    objects: int = 0
    quarantined: int = 0
    cases: int = 0
    #: Deleted studies that the audit log named.
    deleted: int = 0


def patient_of(lines: Iterable[str], *, whole: bool) -> str:
    """Return the one Patient ID among *lines*; raises NotPossible if there is none, or several.

    Only the first line is read unless *whole*: the answer to the confirmation may follow it. A list must not pass as
    erased, nor an empty variable of a script.
    """
    given = [line.strip() for line in itertools.islice(lines, None if whole else 1) if line.strip()]
    if len(given) != 1:
        raise NotPossible(f"expected one Patient ID, found {len(given)}: nothing was erased")
    return given[0]


def issuer_of(given: str | None, *, none: bool) -> str | None:
    """Return the issuer of the options: an empty one for *none*, None if it does not matter; raises NotPossible."""
    if given is not None and (none or not given.strip()):
        raise NotPossible("expected the name of an issuer by --issuer, or --no-issuer")
    return "" if none else given and given.strip()


def show(settings: Settings, console: Console, patient_id: str, issuer: str | None) -> Found:
    """Print how much a patient of an issuer has in the database; an empty one is none.

    Raises NotPossible if the issuer is None and the Patient ID has several.
    """
    with reading(settings.database()) as session:
        found = patients.find(session, patient_id, issuer)
        cases = len(reference.find_cases(session, (), patient_hash=erasures.of_patient(patient_id)))
    if issuer is None and len(found.issuers) > 1:
        names = ", ".join(name or "(none)" for name in sorted(found.issuers))
        raise NotPossible(
            f"the Patient ID is that of {len(found.issuers)} issuers ({names}): give --issuer, or --no-issuer"
        )
    console.print(
        f"{len(found.studies)} studies, {found.objects} objects ({found.size / 1e6:.1f} MB), {found.reports} reports,"
        f" {found.inquiries} inquiries, {found.feedback} acts of readers, {cases} reference cases, {found.deleted}"
        " deleted studies that the audit log names; also files in quarantine, and received files that wait to be"
        " indexed",
        highlight=False,
        soft_wrap=True,
    )
    return found


def run(settings: Settings, console: Console, patient_id: str, issuer: str | None, found: Found) -> Amount:
    """Record the erasure with its entry in the audit log, and carry it out.

    Raises as `resume` does, and NotPossible if studies of the patient stay.
    """
    prints = {erasures.of_patient(patient_id, issuer)} | set(map(erasures.fingerprint, found.study_instance_uids))
    lost_database.require_files(settings)
    _require_clock(settings)
    numbers = {"studies": len(found.studies), "objects": found.objects}
    entry = command_entries.entry("delete", "prelim erase", found.studies, numbers)
    with transaction(settings.database()) as session:
        later = patients.dated_later(session, patient_id, issuer, found)
        erasures.record(
            session,
            prints,
            {erasures.of_patients_study(patient_id, issuer, uid): when for uid, when in later.items()},
        )
        # Reference cases have no issuer.
        reference.erase_owner(session, {erasures.of_patient(patient_id)})
        command_entries.chain().commit(session, [entry])
    total = carry_out(settings, console)
    _require_nothing_left(settings, patient_id, issuer)
    if not any(total):
        console.print("nothing was found: if the Patient ID is mistyped, erase the right one, too", soft_wrap=True)
    return total


def _require_clock(settings: Settings) -> None:
    """Raise NotPossible if the database's clock is ahead of this machine's: it dates the erasure.

    A restore would then erase the patient's examinations up to that time, too.
    """
    with reading(settings.database()) as session:
        ahead = session.scalars(select(func.clock_timestamp())).one() - dt.datetime.now(dt.UTC)
    if ahead > MAX_SKEW:
        raise NotPossible(
            f"nothing was erased: the database's clock is {ahead.total_seconds() / 60:.0f} min ahead of this machine's;"
            " set the wrong one first (`prelim doctor` compares them)"
        )


def _require_nothing_left(settings: Settings, patient_id: str, issuer: str | None) -> None:
    """Raise NotPossible if studies of the patient stay, which have arrived since, or are dated later than now."""
    with reading(settings.database()) as session:
        left = patients.find(session, patient_id, issuer)
    if left.studies or left.deleted:
        raise NotPossible(
            f"{len(left.studies) + left.deleted} studies of the patient stay: they arrived after the erasure began, or"
            " a wrong clock has dated them later; unless they are a new examination, erase the patient once more"
        )


def resume(settings: Settings, console: Console) -> Amount:
    """Carry out all erasures that are not completed, in the data directory of the database; return how much was erased.

    Raises as `carry_out` does, and ConfigurationError if the data directory is another one.
    """
    lost_database.require_files(settings)
    return carry_out(settings, console)


def carry_out(settings: Settings, console: Console, *, dated_later: bool = True) -> Amount:
    """Carry out all erasures that are not completed; return how much was erased.

    Also of files in quarantine that a wrong clock has dated later than now, unless *dated_later* is False: a restore
    carries out the erasures of years again, and what it dates later may be a new examination.
    Raises BackupRunning if files cannot be deleted now, OSError if one cannot, NotPossible if one in quarantine cannot
    be read, ConfigurationError while another command changes the reference index; what is left is then erased by the
    next run.
    """
    total, unread = Amount(cases=_erase_cases(settings)), set[str]()
    for attempt in itertools.count():
        studies, objects = _erase_studies(settings)
        quarantined = unnamed_files.erase(settings, unread, dated_later=dated_later)
        total = total._replace(
            studies=total.studies + studies,
            objects=total.objects + objects,
            quarantined=total.quarantined + quarantined,
        )
        _index_waiting(settings)
        if attempt and not studies and not quarantined:
            break
        time.sleep(INDEXER_SECONDS)
    unnamed_files.forget_transfers(settings)
    failure = file_deletions.delete_files(settings)
    if failure is not None:
        raise failure
    report_images.remove_unused(settings, dry_run=False)
    if unread:
        raise NotPossible(
            f"{len(unread)} files in quarantine cannot be read, and may be the patient's ({', '.join(sorted(unread))}):"
            " repair the disk or delete them, then run `prelim erase`"
        )
    with transaction(settings.database()) as session:
        total = total._replace(deleted=patients.forget_deleted(session))
        erasures.complete(session)
    log.info("patients.erased", **total._asdict(), by=command_entries.user())
    _print(settings, console, total)
    return total


def _erase_cases(settings: Settings) -> int:
    """Erase the cases of the reference index, with what an interrupted command has left in it."""
    with reading(settings.database()) as session:
        cases = [str(case_id) for case_id in reference.of_erased(session)]
        snapshots = reference.current_snapshots(session)
    if not cases and not snapshots:
        return 0
    # Imports numpy and faiss.
    from worker.reference_build import erasing  # noqa: PLC0415 - an installation without an index needs neither

    return erasing.erase(settings, cases=cases)


def _erase_studies(settings: Settings) -> tuple[int, int]:
    studies = objects = 0
    last: uuid.UUID | None = uuid.UUID(int=0)
    while last is not None:
        with reading(settings.database()) as session:
            last, found = patients.covered(session, last)
        for start in range(0, len(found), BATCH):
            with transaction(settings.database()) as session:
                erased = patients.erase(session, found[start : start + BATCH])
            studies, objects = studies + erased.studies, objects + erased.objects
    return studies, objects


def _index_waiting(settings: Settings) -> None:
    """Index the files that wait, beside the dispatchers: those of erased patients are dropped."""
    spool = Spool(settings.spool)
    while any(received(spool)) and indexer.run_once(settings):
        pass


def _print(settings: Settings, console: Console, total: Amount) -> None:
    console.print(
        f"erased {total.studies} studies with {total.objects} objects, {total.quarantined} files in quarantine,"
        f" {total.cases} reference cases, the names of {total.deleted} deleted studies",
        highlight=False,
    )
    with reading(settings.database()) as session:
        has_backups = session.scalar(select(exists().where(Backup.name != "")))
        is_known = not session.scalar(select(exists().where(PatientErasure.backed_up_at.is_(None))))
    if has_backups and not is_known:
        console.print(
            "earlier backups have the patient: run `prelim backup` now, so that a restore from its folder erases the"
            " patient again",
            soft_wrap=True,
        )
