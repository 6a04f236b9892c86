"""Delete images of old reports, or old studies (`prelim retain`): in bounded batches, safe to repeat."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import structlog
from sqlalchemy import func, select

from db.errors import NotPossible
from db.session import reading, transaction
from db.studies.deletion import file_deletions, retention
from db.studies.deletion.file_deletions import BackupRunning
from db.studies.deletion.retention import Limits
from deploy.launcher import lost_database
from deploy.operate import report_images
from deploy.operate.audit_log import command_entries

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from db.access.audit_log import Chain, Entry
    from db.errors import PrelimError
    from db.settings import Settings

log = structlog.get_logger()

#: Study Instance UIDs of one page, and those and their files of one transaction: it locks their studies for less than a
#: second.
PAGE, BATCH, BATCH_FILES = 200, 25, 1000
#: A mistyped unit must not delete the studies of today.
MIN_AGE = dt.timedelta(days=1)


class Amount(NamedTuple):
    """Number and bytes of the images of reports, or of the stored files, of some studies."""

    studies: int = 0
    files: int = 0
    size: int = 0

    def plus(self, other: Amount) -> Amount:
        """Return the sum."""
        return Amount(self.studies + other.studies, self.files + other.files, self.size + other.size)


def limits(settings: Settings, age: dt.timedelta | None, *, images_only: bool, without_report: bool) -> Limits:
    """Return the limits by the site's rules; *age* is that of studies without a rule, None: they are kept.

    Of the rules, only `keep` concerns images. Raises NotPossible if *age* is shorter than a day, or nothing has one.
    """
    rules = settings.operations.retention_rules
    if age is not None and age < MIN_AGE:
        raise NotPossible("expected an age of at least 1d: younger studies are still being read")
    if age is None and (images_only or not rules):
        raise NotPossible("no age: expected --older-than, or PRELIM_RETENTION_RULES to delete studies")
    with reading(settings.database()) as session:
        # A clock that is years ahead would make every study old.
        now = min(session.scalars(select(func.now())).one(), dt.datetime.now(dt.UTC))
    days = {name: value for name, value in rules.items() if value == "keep" or not images_only}
    by_name = {name: None if value == "keep" else now - dt.timedelta(days=value) for name, value in days.items()}
    return Limits(None if age is None else now - age, by_name, without_report or images_only)


def run(
    settings: Settings,
    console: Console,
    age: dt.timedelta | None,
    *,
    images_only: bool,
    dry_run: bool,
    without_report: bool = False,
) -> Amount:
    """Delete what ended longer than *age* ago, or than the site's rules, or only print it; returns the amount.

    Studies without a report are kept unless *without_report*. Raises NotPossible as `limits` does, ConfigurationError
    if the data directory is not that of the database; in the end, BackupRunning, and OSError if a file stays,
    which the next run tries again; OSError if the folder of report images cannot be listed.
    """
    old = limits(settings, age, images_only=images_only, without_report=without_report)
    if not dry_run:
        lost_database.require_files(settings)
    _examine_names(settings, console, old)
    chain = command_entries.chain()
    found: Counter[str] = Counter()
    total = Amount()
    # Those of an interrupted run.
    failure = None if dry_run else _delete_files(settings)
    for page in _old(settings, old, images_only=images_only):
        for uids in batches(page):
            amount, modalities = _drop(settings, uids, old, None if dry_run else chain, images_only=images_only)
            total = total.plus(amount)
            found.update(modalities)
        if not dry_run:
            failure = failure or _delete_files(settings)
    kind = "images of reports" if images_only else "files"
    verb = "would delete" if dry_run else "deleted"
    console.print(f"{verb} {total.files} {kind} of {total.studies} studies, {total.size / 1e6:.1f} MB", highlight=False)
    _print_details(settings, console, old, found)
    unused = report_images.remove_unused(settings, dry_run=dry_run)
    if unused:
        console.print(f"{verb} {unused} files of report images without a row", highlight=False)
    if failure is not None:
        raise failure
    return total


def _examine_names(settings: Settings, console: Console, old: Limits) -> None:
    """Print the rules that no study has; raises NotPossible if one differs from a study's name in case only."""
    with reading(settings.database()) as session:
        missing, meant = retention.unmatched(session, old)
    if meant:
        pairs = ", ".join(f"{name} (studies have {known})" for name, known in meant.items())
        raise NotPossible(f"rules with another case than the AE title or modality of studies: {pairs}; correct them")
    if missing:
        console.print(
            f"rules that are neither the AE title nor the modality of a study: {', '.join(missing)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _print_details(settings: Settings, console: Console, old: Limits, found: Counter[str]) -> None:
    """Print the studies by modality, and those that are old enough and kept."""
    with reading(settings.database()) as session:
        kept = {cause: number for cause, number in retention.kept(session, old).items() if number}
    for name, numbers in (("by modality", dict(found.most_common())), ("old, and kept", kept)):
        if numbers:
            line = ", ".join(f"{number} {label or '(none)'}" for label, number in numbers.items())
            console.print(f"{name}: {line}", highlight=False, soft_wrap=True)


def _delete_files(settings: Settings) -> PrelimError | OSError | None:
    try:
        return file_deletions.delete_files(settings)
    except BackupRunning as error:
        return error


def batches(page: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    """Yield the Study Instance UIDs of a page in batches, given with the number of their files."""
    batch: list[str] = []
    total = 0
    for uid, files in page:
        if batch and (len(batch) == BATCH or total + files > BATCH_FILES):
            yield batch
            batch, total = [], 0
        batch.append(uid)
        total += files
    yield batch


def _old(settings: Settings, old: Limits, *, images_only: bool) -> Iterator[Sequence[tuple[str, int]]]:
    last = ""
    while True:
        with reading(settings.database()) as session:
            page = retention.next_page(session, old, last, PAGE, images_only=images_only)
        if not page:
            return
        yield [(uid, files) for uid, files in page]
        last, _ = page[-1]


def _drop(
    settings: Settings, uids: Sequence[str], old: Limits, chain: Chain | None, *, images_only: bool
) -> tuple[Amount, list[str]]:
    """Delete the studies of some UIDs, or their images; return how much, and the modality of each study.

    In the same transaction the deletion is appended to *chain* of the audit log; without one, nothing is deleted.
    """
    with transaction(settings.database()) as session:
        studies = retention.locked(session, uids, old)
        modalities = [study.modality for study in studies]
        if images_only:
            sizes = [size for _, size in retention.images(session, studies)]
        else:
            sizes = [row.file_bytes for row in retention.instances(session, studies)]
        ids, amount = [study.id for study in studies], Amount(len(studies), len(sizes), sum(sizes))
        if ids and chain is not None:
            if images_only:
                retention.delete_images(session, studies)
            else:
                retention.note_deleted(session, studies)
                retention.delete_studies(session, studies)
            chain.commit(session, [_entry(ids, amount, images_only=images_only)])
    if chain is not None:
        kind = "images" if images_only else "study"
        for study_id in ids:
            log.info("retention.deleted", study_id=str(study_id), kind=kind, by=command_entries.user())
    return amount, modalities


def _entry(study_ids: list[uuid.UUID], amount: Amount, *, images_only: bool) -> Entry:
    command = "prelim retain --images-only" if images_only else "prelim retain"
    detail = {"studies": amount.studies, "images" if images_only else "objects": amount.files}
    return command_entries.entry("delete", command, study_ids, detail)
