"""Delete images of old reports, or old studies (`prelim retain`): in bounded batches, safe to repeat."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

import structlog
from sqlalchemy.exc import OperationalError

from db.errors import NotPossible
from db.reports import image_files
from db.session import reading, transaction
from db.studies import retention
from deploy.operate import report_images
from deploy.operate.identities import user

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from db.settings import Settings

log = structlog.get_logger()

#: Study Instance UIDs of one page, and those and their files of one transaction: it locks their studies for less than a
#: second, and the limit of idle transactions leaves 9 ms to delete a file.
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


def run(settings: Settings, console: Console, age: dt.timedelta, *, images_only: bool, dry_run: bool) -> Amount:
    """Delete what ended longer than *age* ago, or only print how much that is; returns the amount.

    Raises NotPossible if *age* is shorter than a day; OSError if a file cannot be deleted, whose study stays, or the
    folder of report images cannot be listed.
    """
    if age < MIN_AGE:
        raise NotPossible("expected an age of at least 1d: younger studies are still being read")
    before = dt.datetime.now(dt.UTC) - age
    total = Amount()
    for page in _old(settings, before, images_only=images_only):
        for uids in batches(page):
            total = total.plus(_drop_slowly(settings, uids, before, images_only=images_only, dry_run=dry_run))
    kind = "images of reports" if images_only else "files"
    verb = "would delete" if dry_run else "deleted"
    console.print(f"{verb} {total.files} {kind} of {total.studies} studies, {total.size / 1e6:.1f} MB", highlight=False)
    unused = report_images.remove_unused(settings, dry_run=dry_run)
    if unused:
        console.print(f"{verb} {unused} files of report images without a row", highlight=False)
    return total


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


def _old(settings: Settings, before: dt.datetime, *, images_only: bool) -> Iterator[Sequence[tuple[str, int]]]:
    last = ""
    while True:
        with reading(settings.database()) as session:
            page = retention.next_page(session, before, last, PAGE, images_only=images_only)
        if not page:
            return
        yield [(uid, files) for uid, files in page]
        last, _ = page[-1]


def _drop_slowly(
    settings: Settings, uids: Sequence[str], before: dt.datetime, *, images_only: bool, dry_run: bool
) -> Amount:
    """Drop them, once more if the time of the transaction was over: the first attempt has deleted the files."""
    try:
        return _drop(settings, uids, before, images_only=images_only, dry_run=dry_run)
    except OperationalError:
        return _drop(settings, uids, before, images_only=images_only, dry_run=dry_run)


def _drop(settings: Settings, uids: Sequence[str], before: dt.datetime, *, images_only: bool, dry_run: bool) -> Amount:
    with transaction(settings.database()) as session:
        studies = retention.locked(session, uids, before)
        if not studies:
            return Amount()
        stored = [] if images_only else retention.instances(session, studies)
        images = retention.images(session, studies)
        sizes = [size for _, size in images] if images_only else [row.file_bytes for row in stored]
        files = [path for path, _ in images if path is not None]
        if dry_run:
            pass
        elif images_only:
            retention.delete_images(session, studies)
        else:
            # Before the rows: `prelim audit --repair` would index a file without a row again. Under the lock: no late
            # image can arrive in between.
            image_files.remove(settings.operations.data_dir, [*files, *(row.file_path for row in stored)])
            retention.delete_studies(session, studies)
    if not dry_run:
        # After the rows: a file without a row is deleted by the next run, an image without its file could be asked for.
        image_files.remove(settings.operations.data_dir, files if images_only else [])
        kind = "images" if images_only else "study"
        for study in studies:
            log.info("retention.deleted", study_id=str(study.id), kind=kind, by=user())
    return Amount(len(studies), len(sizes), sum(sizes))
