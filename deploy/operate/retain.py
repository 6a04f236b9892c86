"""Delete images of old reports, or old studies (`prelim retain`): one transaction a study, safe to repeat."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

import structlog

from db.errors import NotPossible
from db.session import transaction
from db.studies import retention
from deploy.operate.identities import user
from dicom_listener.spool.durable import sync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from db.models import Instance
    from db.settings import Settings

log = structlog.get_logger()

#: Studies of one page.
PAGE = 200
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

    Raises NotPossible if *age* is shorter than a day; OSError if a file cannot be deleted: its study stays.
    """
    if age < MIN_AGE:
        raise NotPossible("expected an age of at least 1d: younger studies are still being read")
    before = dt.datetime.now(dt.UTC) - age
    total = Amount()
    for uid in _old(settings, before, images_only=images_only):
        total = total.plus(_drop(settings, uid, before, images_only=images_only, dry_run=dry_run))
    kind = "images of reports" if images_only else "files"
    verb = "would delete" if dry_run else "deleted"
    console.print(f"{verb} {total.files} {kind} of {total.studies} studies, {total.size / 1e6:.1f} MB", highlight=False)
    return total


def _old(settings: Settings, before: dt.datetime, *, images_only: bool) -> Iterator[str]:
    last = ""
    while True:
        with transaction(settings.database()) as session:
            page = retention.next_page(session, before, last, PAGE, images_only=images_only)
        if not page:
            return
        yield from page
        last = page[-1]


def _drop(settings: Settings, uid: str, before: dt.datetime, *, images_only: bool, dry_run: bool) -> Amount:
    with transaction(settings.database()) as session:
        studies = retention.locked(session, uid, before)
        if not studies:
            return Amount()
        stored = [] if images_only else retention.instances(session, studies)
        sizes = retention.image_sizes(session, studies) if images_only else [row.file_bytes for row in stored]
        if dry_run:
            pass
        elif images_only:
            retention.delete_images(session, studies)
        else:
            # Before the rows: `prelim audit --repair` would index a file without a row again. Under the lock: no late
            # image can arrive in between.
            _delete_files(settings, stored)
            retention.delete_studies(session, studies)
    if not dry_run:
        kind = "images" if images_only else "study"
        for study in studies:
            log.info("retention.deleted", study_id=str(study.id), kind=kind, by=user())
    return Amount(len(studies), len(sizes), sum(sizes))


def _delete_files(settings: Settings, stored: Sequence[Instance]) -> None:
    paths = [settings.operations.data_dir / row.file_path for row in stored]
    for path in paths:
        path.unlink(missing_ok=True)  # from an interrupted run
    for directory in {path.parent for path in paths}:
        sync_directory(directory)
