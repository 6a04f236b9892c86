"""Write a de-identified diagnostic bundle of one study for a developer (`prelim bundle`).

Header elements are an allow-list: pixel encoding and device kind, never a name, date, identifier or free text.
"""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pydicom import dcmread
from pydicom.config import disable_value_validation
from sqlalchemy import select

from db.models import Instance, Job
from db.operations import heartbeats
from db.release import release
from db.session import reading
from db.storage import object_files
from db.studies import lifecycle
from dicom_listener.spool.durable import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset
    from sqlalchemy.orm import Session

    from db.models import Study
    from db.settings import Settings

#: Elements that determine how an image is decoded and displayed (PS3.3 C.7.6.3, C.11), and the device kind.
ELEMENTS = (
    *("SOPClassUID", "Modality", "Manufacturer", "ImageType", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("PixelSpacing", "SliceThickness", "LossyImageCompression", "PixelPaddingValue"),
)
#: Columns of each row that a bundle holds; none holds patient data.
STUDY = "id identity_number differs modality state revision priority settle_reason reason detail"
JOB = "id kind revision state fence attempt owner queued_at claimed_at finished_at reason detail frames"
INSTANCE = "id sop_class_uid transfer_syntax_uid file_bytes sha256 reportable revision"
DISTRIBUTIONS = ("torch", "transformers", "pydicom", "numpy", "pillow", "celery", "sqlalchemy")
#: Characters of a header value; valid values of these elements are shorter, a misused element may hold free text.
MAX_VALUE_CHARACTERS = 64


def write(settings: Settings, name: str, path: Path) -> None:
    """Write the bundle of the study *name* to *path* as JSON; raises UnknownStudy."""
    with reading(settings.database()) as session:
        study = lifecycle.find(session, name)
        jobs, instances = _of(session, Job, study), _of(session, Instance, study)
        workers = heartbeats.alive(session, heartbeats.Role.WORKER)
    bundle = {
        "study": _columns(study, STUDY),
        "jobs": [_columns(job, JOB) for job in jobs],
        "instances": [_columns(row, INSTANCE) | {"header": _header(settings, row)} for row in instances],
        "workers": [process.info for process in workers],
        "versions": {"prelim": release()} | {name: version(name) for name in DISTRIBUTIONS},
        "machine": {"python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count()},
    }
    path.write_text(json.dumps(bundle, indent=2, default=str) + "\n")


def _of(session: Session, rows: type[Any], study: Study) -> list[Any]:
    return list(session.scalars(select(rows).where(rows.study_id == study.id).order_by(rows.revision, rows.id)))


def _columns(row: Study | Job | Instance, names: str) -> dict[str, Any]:
    return {name: getattr(row, name) for name in names.split()}


def _header(settings: Settings, row: Instance) -> dict[str, Any]:
    try:
        with (
            object_files.opened(settings) as stored,
            open_regular(stored.path(row)) as file,
            disable_value_validation(),
        ):
            dataset = dcmread(file, stop_before_pixels=True, specific_tags=list(ELEMENTS))
            return {name: _value(dataset, name) for name in ELEMENTS if name in dataset}
    # A boundary: any error of the reader belongs in the bundle.
    except Exception as error:  # noqa: BLE001
        return _unreadable(error)


def _value(dataset: Dataset, name: str) -> str | dict[str, str]:
    try:
        return str(dataset[name].value)[:MAX_VALUE_CHARACTERS]
    # A boundary, as in _header: one invalid element must not hide the others.
    except Exception as error:  # noqa: BLE001
        return _unreadable(error)


def _unreadable(error: Exception) -> dict[str, str]:
    """Return the type of an error without its text, which may quote patient data."""
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return {"unreadable": f"{module}{kind.__qualname__}"}
