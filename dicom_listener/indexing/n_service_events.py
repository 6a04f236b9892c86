"""Make rows from received requests of storage commitment and procedure steps."""

from __future__ import annotations

import io
import uuid
import warnings
from functools import partial
from typing import TYPE_CHECKING

import structlog
from pydicom import dcmread

from db.logs import frames
from db.models import Commitment
from db.studies import commitments, procedure_steps
from dicom_listener.dicom import data_sets
from dicom_listener.dicom.character_sets import without_controls
from dicom_listener.spool import file_meta

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom import Dataset
    from sqlalchemy.orm import Session

    from dicom_listener.spool.file_meta import FileMeta

    Record = Callable[[Session], None]

log = structlog.get_logger()


def read(path: Path, meta: FileMeta) -> Record:
    """Return a function that adds the row of the request at *path* to a session.

    Raises ValueError if the request is malformed, OSError if the file cannot be read.
    """
    # The listener has limited its size. Decoded from memory: pydicom raises OSError for malformed data sets, too.
    encoded = io.BytesIO(path.read_bytes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values, which may be a patient's
            dataset = dcmread(encoded)
            return READERS[meta.reception.operation](dataset, meta, uuid.UUID(path.stem))
    # pydicom raises many types of exceptions for malformed data sets.
    except Exception as error:
        log.warning("request.malformed", error=type(error).__name__, frames=frames(error))
        raise ValueError(f"malformed {meta.reception.operation} ({type(error).__name__})") from error


def _commitment(dataset: Dataset, meta: FileMeta, request_id: uuid.UUID) -> Record:
    reception = meta.reception
    commitment = Commitment(
        id=request_id,
        transaction_uid=_uid(dataset.TransactionUID),
        calling_ae_title=reception.calling_ae_title,
        called_ae_title=reception.called_ae_title,
        association_id=reception.association_id,
        requested=[
            [_referenced_uid(item.get("ReferencedSOPClassUID")), _referenced_uid(item.get("ReferencedSOPInstanceUID"))]
            for item in dataset.ReferencedSOPSequence
        ],
        received_at=reception.received_at,
    )
    return partial(commitments.record, commitment=commitment)


def _creation(dataset: Dataset, meta: FileMeta, _: uuid.UUID) -> Record:
    studies = {_uid(item.StudyInstanceUID) for item in dataset.ScheduledStepAttributesSequence}
    # A step rarely has several studies; images belong to one of them. The same one after any retry.
    return partial(
        procedure_steps.begin,
        sop_instance_uid=meta.sop_instance_uid,
        study_instance_uid=min(studies),
        state=str(dataset.PerformedProcedureStepStatus),
    )


def _update(dataset: Dataset, meta: FileMeta, _: uuid.UUID) -> Record:
    images = [
        _referenced_uid(image.get("ReferencedSOPInstanceUID"))
        for series in dataset.get("PerformedSeriesSequence") or ()
        for image in series.get("ReferencedImageSequence") or ()
    ]
    return partial(
        procedure_steps.update,
        sop_instance_uid=meta.sop_instance_uid,
        state=str(dataset.get("PerformedProcedureStepStatus") or ""),
        images=images,
    )


def _uid(value: object) -> str:
    """Return a valid UID, because a database index limits the length of values; raises Refusal."""
    return data_sets.parse_uid(str(value), "UID")


def _referenced_uid(value: object) -> str:
    """Return a UID that a peer refers to, even a malformed one: no object has it, and the result reports that."""
    return without_controls(str(value or ""))[: data_sets.MAX_UID_CHARACTERS]


READERS: dict[str, Callable[[Dataset, FileMeta, uuid.UUID], Record]] = {
    file_meta.N_ACTION: _commitment,
    file_meta.N_CREATE: _creation,
    file_meta.N_SET: _update,
}
