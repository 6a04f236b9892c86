"""`prelim bundle`: what a developer needs to know of a study that failed, and nothing of its patient.

Headers are an allow-list: how the pixels are stored and what made them, never a name, date, identifier or free text.
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
from db.session import transaction
from db.studies import lifecycle

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset
    from sqlalchemy.orm import Session

    from db.models import Study
    from db.settings import Settings

#: Elements that decide how an image is decoded and shown (PS3.3 C.7.6.3, C.11), and the kind of its maker.
ELEMENTS = (
    *("SOPClassUID", "Modality", "Manufacturer", "ImageType", "SamplesPerPixel", "PhotometricInterpretation"),
    *("PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit"),
    *("PixelRepresentation", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *("PixelSpacing", "SliceThickness", "LossyImageCompression", "PixelPaddingValue"),
)
DISTRIBUTIONS = ("prelim", "torch", "transformers", "pydicom", "numpy", "pillow", "celery", "sqlalchemy")
#: The longest value of a header shown: none of ours is longer, a misused element may be.
LONGEST_VALUE = 64


def write(settings: Settings, name: str, path: Path) -> None:
    """Write the bundle of the study of that *name* to *path* as JSON; raises UnknownStudy."""
    with transaction(settings.database()) as session:
        study = lifecycle.find(session, name)
        bundle = {
            "study": _study(study),
            "jobs": [_job(job) for job in _of(session, Job, study)],
            "instances": [_instance(row, settings.operations.data_dir) for row in _of(session, Instance, study)],
            "workers": [process.info for process in heartbeats.alive(session, heartbeats.Role.WORKER)],
            "versions": {name: version(name) for name in DISTRIBUTIONS},
            "machine": {"python": platform.python_version(), "kernel": platform.release(), "cores": os.cpu_count()},
        }
    path.write_text(json.dumps(bundle, indent=2, default=str) + "\n")


def _of(session: Session, rows: type[Any], study: Study) -> list[Any]:
    return list(session.scalars(select(rows).where(rows.study_id == study.id).order_by(rows.revision, rows.id)))


def _study(study: Study) -> dict[str, Any]:
    shown = ("id", "modality", "state", "revision", "priority", "settle_reason", "reason", "detail")
    return {name: getattr(study, name) for name in shown}


def _job(job: Job) -> dict[str, Any]:
    shown = ("id", "revision", "state", "fence", "attempt", "owner", "queued_at", "claimed_at", "finished_at")
    return {name: getattr(job, name) for name in (*shown, "reason", "detail", "frames")}


def _instance(row: Instance, data_dir: Path) -> dict[str, Any]:
    shown = ("id", "sop_class_uid", "transfer_syntax_uid", "file_bytes", "sha256", "reportable", "revision")
    return {name: getattr(row, name) for name in shown} | {"header": _header(data_dir / row.file_path)}


def _header(path: Path) -> dict[str, Any]:
    try:
        with disable_value_validation():
            dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(ELEMENTS))
            return {name: _value(dataset, name) for name in ELEMENTS if name in dataset}
    # A boundary: a file that breaks its reader, in whatever way, is what a bundle is for.
    except Exception as error:  # noqa: BLE001
        return _unreadable(error)


def _value(dataset: Dataset, name: str) -> str | dict[str, str]:
    try:
        return str(dataset[name].value)[:LONGEST_VALUE]
    # A boundary, as in _header: one broken element hides none of the others.
    except Exception as error:  # noqa: BLE001
        return _unreadable(error)


def _unreadable(error: Exception) -> dict[str, str]:
    """The kind of an error without its text, which may quote the patient."""
    kind = type(error)
    module = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    return {"unreadable": f"{module}{kind.__qualname__}"}
