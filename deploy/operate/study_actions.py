"""Show, retry, cancel or settle one study."""

from __future__ import annotations

import io
import uuid
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table
from sqlalchemy import func, select

from db.answers import inquiries, rules
from db.errors import NotPossible
from db.models import Instance, Job
from db.operations import overview
from db.reports import image_files, versions
from db.session import reading, transaction
from db.states import StudyState
from db.studies import lifecycle, settling
from db.studies.identity import conflicts
from deploy.operate.audit_log import command_entries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.console import Console
    from sqlalchemy.orm import Session

    from db.answers.rules import Rules
    from db.models import Report, ReportImage, Study
    from db.settings import Settings
    from worker.images.study_images import StudyImages


def change(settings: Settings, name: str, operation: Callable[[Session, Study], None]) -> None:
    """Apply *operation* to the study *name*, locked; raises UnknownStudy, NotPossible."""
    with transaction(settings.database()) as session:
        operation(session, lifecycle.find(session, name, lock=True))


def change_inquiry(settings: Settings, name: str, operation: Callable[[Session, uuid.UUID], None]) -> bool:
    """Apply *operation* to the inquiry with the id *name*; return False if there is none. Raises NotPossible."""
    try:
        inquiry_id = uuid.UUID(name)
    except ValueError:
        return False
    with transaction(settings.database()) as session:
        found = inquiries.find(session, inquiry_id) is not None
        if found:
            operation(session, inquiry_id)
        return found


def settle(session: Session, study: Study, *, tasks: Rules) -> None:
    """Settle it now and give it its tasks; raises NotPossible if it is not receiving."""
    if study.state != StudyState.RECEIVING:
        raise NotPossible(f"the study is {study.state}: only a receiving study can be settled")
    job_id = settling.settle(session, study, "settled by an operator")
    rules.apply(session, [] if job_id is None else [job_id], tasks)


def show(settings: Settings, console: Console, name: str, images: Path | None) -> None:
    """Print series, jobs and current report of a study, without patient attributes.

    With *images*, write the report's images to that PNG file. Raises UnknownStudy, NotPossible, ImageDamaged.
    """
    with reading(settings.database()) as session:
        study = lifecycle.find(session, name)
        state = f"{_state(study)}{_forecast(session, study)}"
        series, jobs = _series(session, study), _jobs(session, study)
        report = versions.current(session, study.id)
        rows = [] if report is None or images is None else versions.images(session, report.id, pixels=True)
    if report is not None:
        command_entries.note(settings, "read", "prelim show", [study.id])
    console.print(f"study {study.id}", study.study_instance_uid, highlight=False)
    console.print(state, highlight=False)
    console.print(series, jobs)
    if report is not None:
        _print_report(console, study, report)
    if images is not None:
        _draw(study, report, rows, images, settings.operations.data_dir)


def _print_report(console: Console, study: Study, report: Report) -> None:
    console.print(versions.BANNER, style="bold")
    console.print(f"version {report.version}, {report.basis}", markup=False, highlight=False)
    held = [conflicts.HELD] if study.state == StudyState.HELD else []
    lines = (report.findings, report.impression, *held, *report.limitations)
    console.print(*lines, sep="\n", markup=False, highlight=False)


def _state(study: Study) -> str:
    reason = f": {study.detail} ({study.reason})" if study.reason else ""
    return f"{study.state}, revision {study.revision}, {study.settle_reason or _waiting(study)}{reason}"


def _waiting(study: Study) -> str:
    return f"`prelim identity {study.id}` decides" if study.state == StudyState.HELD else "still receiving"


def _forecast(session: Session, study: Study) -> str:
    forecast = overview.forecast(session, study.id)
    if forecast is None:
        return ""
    when = "" if forecast.seconds is None else f", report expected in about {forecast.seconds:.0f} s"
    return f"\nqueue position {forecast.position}{when}"


def _series(session: Session, study: Study) -> Table:
    table = Table("series", "modality", "objects", "images")
    rows = session.execute(
        select(Instance.series_number, Instance.modality, func.count(), func.count().filter(Instance.reportable))
        .where(Instance.study_id == study.id)
        .group_by(Instance.series_instance_uid, Instance.series_number, Instance.modality)
        .order_by(Instance.series_number)
    )
    for number, modality, objects, images in rows:
        table.add_row("" if number is None else str(number), escape(modality), str(objects), str(images))
    return table


def _jobs(session: Session, study: Study) -> Table:
    table = Table(Column("job", min_width=36), "kind", "revision", "state", "attempts", "reason")
    for job in session.scalars(select(Job).where(Job.study_id == study.id).order_by(Job.revision, Job.id)):
        reason = f"{job.reason}: {job.detail}" if job.reason else ""
        table.add_row(str(job.id), job.kind, str(job.revision), job.state, str(job.attempt), reason)
    return table


def _draw(study: Study, report: Report | None, rows: Sequence[ReportImage], path: Path, data_dir: Path) -> None:
    if report is None:
        raise NotPossible("the study has no report yet, and images are stored with a report")
    if not rows:
        raise NotPossible("the report has no images: it used none, or they were deleted by `prelim retain`")
    from worker.images.render.contact_sheet import contact_sheet  # noqa: PLC0415 - numpy and pydicom, only where images are wanted

    contact_sheet(_images(study, report, rows, data_dir), report.limitations).save(path, format="PNG")


def _images(study: Study, report: Report, rows: Sequence[ReportImage], data_dir: Path) -> StudyImages:
    """Return the stored images as the model received them; raises ImageDamaged."""
    import numpy as np  # noqa: PLC0415 - as above
    from PIL import Image  # noqa: PLC0415 - as above

    from worker.images.study_images import PartImages, RenderedImage, StudyImages  # noqa: PLC0415 - as above

    images = [
        RenderedImage(
            pixels=np.asarray(Image.open(io.BytesIO(image_files.read(data_dir, row))).convert("RGB")),
            sop_instance_uid=row.sop_instance_uid,
            frame=row.frame,
            reason=row.reason,
            transform=row.transform,
            warnings=row.warnings,
        )
        for row in rows
    ]
    return StudyImages([PartImages(images, report.basis, study.modality, study.body_part)], [])
