"""Images of reports in the database and in files: verify them, move them, delete unused files."""

from __future__ import annotations

import uuid
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import structlog
from sqlalchemy import exists, func, select, tuple_
from sqlalchemy.orm import defer

from db.errors import ImageDamaged
from db.models import Report, ReportImage, Study
from db.operations import row_sample
from db.operations.invariants import Violation
from db.reports import image_files, versions
from db.session import reading, transaction
from db.studies.deletion import file_deletions
from deploy.launcher import lost_database

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Sequence

    from rich.console import Console
    from sqlalchemy import ColumnElement, Row, Select
    from sqlalchemy.orm import Session

    from db.settings import Settings

    Place = Literal["database", "files"]

log = structlog.get_logger()

#: Rows read at a time; the database computes the digests of the images that it holds.
PAGE = 200

DAMAGED = "every image of a report is the one that its report is based on"
UNUSED = "every file of a report image has its row"
UNKNOWN = "every file of a report image belongs to a report of this database"
UNLISTED = "the folder of report images can be listed"


def violations(settings: Settings, sample: int | None, since: dt.timedelta | None) -> Iterator[Violation]:
    """Yield missing and damaged images, then files without a row. No transaction is open while files are read."""
    for page in _pages(settings, sample, since):
        for image, digest in page:
            cause = _cause(settings, image, digest)
            # It may have been moved or deleted since.
            if cause and (now := _again(settings, image)) and (cause := _cause(settings, *now)):
                subject = f"report {image.report_id} image {image.ordinal}: {cause}"
                yield Violation(DAMAGED, subject)
    yield from _files_without_row(settings)


def remove_file(settings: Settings, path: str) -> bool:
    """Delete a file without a row if no claim can insert one; return whether it was deleted. Raises OSError."""
    removed = image_files.remove_unused(settings.database(), settings.operations.data_dir, path)
    if removed:
        log.info("report_image.removed", file=path)
    return removed


def remove_unused(settings: Settings, *, dry_run: bool) -> int:
    """Delete all unused files, or only count them; raises OSError."""
    count = 0
    for violation in _unused_and_unknown(settings):
        if violation.rule == UNUSED:
            count += dry_run or remove_file(settings, violation.subject)
    return count


def move(settings: Settings, console: Console, place: Place) -> int:
    """Move all stored images to *place*, one transaction for each report; return how many were moved.

    May run beside all processes and be repeated. A damaged image stays where it is and is printed. Raises OSError,
    ConfigurationError if the data directory is not that of the database,
    and BackupRunning if files stay until the next deletion.
    """
    lost_database.require_files(settings)
    moved = 0
    for report_id in _reports_to_move(settings, place):
        try:
            moved += _move_report(settings, report_id, place)
        except ImageDamaged as error:
            console.print(f"report {report_id} is left as it is: {error}", highlight=False, soft_wrap=True)
    console.print(f"moved {moved} images", highlight=False)
    failure = file_deletions.delete_files(settings)
    if failure is not None:
        raise failure
    return moved


def _rows() -> Select[ReportImage, str | None]:
    digest = func.encode(func.sha256(ReportImage.png), "hex")
    return select(ReportImage, digest).options(defer(ReportImage.png, raiseload=True))


def _pages(
    settings: Settings, sample: int | None, since: dt.timedelta | None
) -> Iterator[Sequence[Row[ReportImage, str | None]]]:
    key = tuple_(ReportImage.report_id, ReportImage.ordinal)
    if sample is not None:
        with reading(settings.database()) as session:
            # Of keys only: the database must not compute the digests of all images first.
            chosen = row_sample.draw(session, ReportImage, sample, lambda images: _keys(images, since))
            yield session.execute(_rows().where(key.in_([tuple(row) for row in chosen]))).all()
        return
    query = _rows().where(*_recent(ReportImage, since))
    last = uuid.UUID(int=0), 0
    while True:
        with reading(settings.database()) as session:
            page = session.execute(query.where(key > last).order_by(key).limit(PAGE)).all()
        if not page:
            return
        yield page
        last = page[-1].ReportImage.report_id, page[-1].ReportImage.ordinal


def _keys(images: type[ReportImage], since: dt.timedelta | None) -> Select[uuid.UUID, int]:
    return select(images.report_id, images.ordinal).where(*_recent(images, since))


def _recent(images: type[ReportImage], since: dt.timedelta | None) -> list[ColumnElement[bool]]:
    if since is None:
        return []
    return [exists().where(Report.id == images.report_id, Report.created_at > func.now() - since)]


def _again(settings: Settings, image: ReportImage) -> Row[ReportImage, str | None] | None:
    with reading(settings.database()) as session:
        query = _rows().where(ReportImage.report_id == image.report_id, ReportImage.ordinal == image.ordinal)
        return session.execute(query).one_or_none()


def _cause(settings: Settings, image: ReportImage, digest: str | None) -> str | None:
    """Return why an image is damaged; *digest* is that of the bytes in the database."""
    if image.file_path is None:
        return None if digest == image.sha256 else "its digest differs"
    try:
        image_files.read(settings.operations.data_dir, image)
    except ImageDamaged as error:
        return f"{error} ({image.file_path})"
    return None


def _files_without_row(settings: Settings) -> Iterator[Violation]:
    try:
        yield from _unused_and_unknown(settings)
    except OSError as error:
        yield Violation(UNLISTED, f"{image_files.FOLDER} ({error.strerror})")


def _unused_and_unknown(settings: Settings) -> Iterator[Violation]:
    for page in image_files.pages(settings.operations.data_dir):
        with reading(settings.database()) as session:
            suspects = image_files.without_row(session, page)
        for path in suspects:
            with transaction(settings.database()) as session:
                use = image_files.use(session, path)
            if use != image_files.Use.USED and (settings.operations.data_dir / path).exists():
                yield Violation(UNUSED if use == image_files.Use.UNUSED else UNKNOWN, path)


def _reports_to_move(settings: Settings, place: Place) -> Iterator[uuid.UUID]:
    elsewhere = ReportImage.png.is_not(None) if place == "files" else ReportImage.file_path.is_not(None)
    query = select(ReportImage.report_id).where(elsewhere).order_by(ReportImage.report_id).limit(PAGE)
    last = uuid.UUID(int=0)
    while True:
        with reading(settings.database()) as session:
            page = session.scalars(query.where(ReportImage.report_id > last)).all()
        if not page:
            return
        # The last report of a page may have images in the next one.
        yield from (report_id for report_id, _ in groupby(page))
        last = page[-1]


def _move_report(settings: Settings, report_id: uuid.UUID, place: Place) -> int:
    """Move the images of one report; no transaction is open while files are read or written."""
    data_dir, url = settings.operations.data_dir, settings.database()
    with reading(url) as session:
        job_id, images = _elsewhere(session, report_id, place)
    if not images:
        return 0
    contents = {image.ordinal: image_files.read(data_dir, image) for image in images}
    if place == "database":
        with transaction(url) as session:
            moved = _locked(session, report_id, images)
            file_deletions.note(session, [str(image.file_path) for image in moved])
            for image in moved:
                image.png, image.file_path, image.file_bytes = contents[image.ordinal], None, None
    else:
        with image_files.moving(url) as move:
            paths = image_files.write(data_dir, job_id, move.token, contents.values())
            files = dict(zip(contents, paths, strict=True))
            with transaction(url) as session:
                moved = _locked(session, report_id, images)
                move.insist(session)
                for image in moved:
                    image.png, image.file_path = None, files[image.ordinal]
                    image.file_bytes = len(contents[image.ordinal])
        # Those of images that were deleted or moved meanwhile.
        for path in paths if len(moved) < len(images) else ():
            image_files.remove_unused(url, data_dir, path)
    return len(moved)


def _elsewhere(session: Session, report_id: uuid.UUID, place: Place) -> tuple[uuid.UUID, list[ReportImage]]:
    """Return the report's job, and its images that are not in *place*, with those that the database holds."""
    images = versions.images(session, report_id, pixels=True)
    job_id = session.scalar(select(Report.job_id).where(Report.id == report_id)) or uuid.UUID(int=0)
    return job_id, [image for image in images if (image.file_path is None) == (place == "files")]


def _locked(session: Session, report_id: uuid.UUID, known: Sequence[ReportImage]) -> list[ReportImage]:
    """Return those of the images that are still at their place, their study locked."""
    report = select(Report).join(Study, Study.id == Report.study_id).where(Report.id == report_id)
    session.execute(report.with_for_update(of=Study))
    places = {image.ordinal: image.file_path for image in known}
    images = versions.images(session, report_id)
    return [image for image in images if places.get(image.ordinal, "") == image.file_path]
