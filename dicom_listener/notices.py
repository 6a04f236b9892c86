"""Kept requests become rows: storage commitment and procedure steps, in the process for which nobody waits."""

from __future__ import annotations

import uuid
import warnings
from functools import partial
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from db import modality
from db.models import Commitment
from dicom_listener import file_meta

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydicom import Dataset
    from sqlalchemy.orm import Session

    from dicom_listener.file_meta import FileMeta

    Record = Callable[[Session], None]

#: What pydicom raises on malformed input.
MALFORMED = (InvalidDicomError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RecursionError)


def read(path: Path, meta: FileMeta) -> Record:
    """What gives the request at *path* its row, in a session; raises ValueError where the request makes no sense."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            # The listener has bounded its size, its depth and its elements.
            dataset = dcmread(path)
            return READERS[meta.reception.operation](dataset, meta, uuid.UUID(path.stem))
    except MALFORMED as error:
        raise ValueError(f"a malformed {meta.reception.operation} ({type(error).__name__})") from error


def _commitment(dataset: Dataset, meta: FileMeta, request_id: uuid.UUID) -> Record:
    reception = meta.reception
    commitment = Commitment(
        id=request_id,
        transaction_uid=str(dataset.TransactionUID),
        calling_ae_title=reception.calling_ae_title,
        called_ae_title=reception.called_ae_title,
        association_id=reception.association_id,
        requested=[
            [str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID)]
            for item in dataset.ReferencedSOPSequence
        ],
        received_at=reception.received_at,
    )
    return partial(modality.record_commitment, commitment=commitment)


def _creation(dataset: Dataset, meta: FileMeta, _: uuid.UUID) -> Record:
    studies = {str(item.StudyInstanceUID) for item in dataset.ScheduledStepAttributesSequence}
    # A step for several studies is one in name only; the first is the one whose images it makes.
    return partial(
        modality.begin_step,
        sop_instance_uid=meta.sop_instance_uid,
        study_instance_uid=min(studies),
        state=str(dataset.PerformedProcedureStepStatus),
    )


def _update(dataset: Dataset, meta: FileMeta, _: uuid.UUID) -> Record:
    images = [
        str(image.ReferencedSOPInstanceUID)
        for series in dataset.get("PerformedSeriesSequence") or ()
        for image in series.get("ReferencedImageSequence") or ()
    ]
    return partial(
        modality.update_step,
        sop_instance_uid=meta.sop_instance_uid,
        state=dataset.get("PerformedProcedureStepStatus"),
        images=images,
    )


READERS: dict[str, Callable[[Dataset, FileMeta, uuid.UUID], Record]] = {
    file_meta.N_ACTION: _commitment,
    file_meta.N_CREATE: _creation,
    file_meta.N_SET: _update,
}
