"""Kept requests become rows: storage commitment and procedure steps, in the process for which nobody waits."""

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
from db.studies import commitments
from dicom_listener.dicom import data_sets
from dicom_listener.indexing.headers import CONTROL_CHARACTERS
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
    """What gives the request at *path* its row, in a session.

    Raises ValueError where the request makes no sense, OSError where the disk does not give it back.
    """
    # The listener has bounded its size. From memory: pydicom raises OSError for what is wrong with a data set, too.
    encoded = io.BytesIO(path.read_bytes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            dataset = dcmread(encoded)
            return READERS[meta.reception.operation](dataset, meta, uuid.UUID(path.stem))
    # pydicom raises whatever its parts stumble over.
    except Exception as error:
        log.warning("notice.malformed", file=path.name, error=type(error).__name__, frames=frames(error))
        raise ValueError(f"a malformed {meta.reception.operation} ({type(error).__name__})") from error


def _commitment(dataset: Dataset, meta: FileMeta, request_id: uuid.UUID) -> Record:
    reception = meta.reception
    commitment = Commitment(
        id=request_id,
        transaction_uid=_uid(dataset.TransactionUID),
        calling_ae_title=reception.calling_ae_title,
        called_ae_title=reception.called_ae_title,
        association_id=reception.association_id,
        requested=[
            [_cited(item.get("ReferencedSOPClassUID")), _cited(item.get("ReferencedSOPInstanceUID"))]
            for item in dataset.ReferencedSOPSequence
        ],
        received_at=reception.received_at,
    )
    return partial(commitments.record_commitment, commitment=commitment)


def _creation(dataset: Dataset, meta: FileMeta, _: uuid.UUID) -> Record:
    studies = {_uid(item.StudyInstanceUID) for item in dataset.ScheduledStepAttributesSequence}
    # A step for several studies is one in name only; the first is the one whose images it makes.
    return partial(
        commitments.begin_step,
        sop_instance_uid=meta.sop_instance_uid,
        study_instance_uid=min(studies),
        state=str(dataset.PerformedProcedureStepStatus),
    )


def _update(dataset: Dataset, meta: FileMeta, _: uuid.UUID) -> Record:
    images = [
        _cited(image.get("ReferencedSOPInstanceUID"))
        for series in dataset.get("PerformedSeriesSequence") or ()
        for image in series.get("ReferencedImageSequence") or ()
    ]
    return partial(
        commitments.update_step,
        sop_instance_uid=meta.sop_instance_uid,
        state=str(dataset.get("PerformedProcedureStepStatus") or ""),
        images=images,
    )


def _uid(value: object) -> str:
    """A UID fit for a row: an index takes no more than some KB."""
    return data_sets.parse_uid(str(value), "UID")


def _cited(value: object) -> str:
    """What a peer calls an object: where it is no UID, no object has it, and the report says so."""
    return CONTROL_CHARACTERS.sub("", str(value or ""))[: data_sets.LONGEST_UID]


READERS: dict[str, Callable[[Dataset, FileMeta, uuid.UUID], Record]] = {
    file_meta.N_ACTION: _commitment,
    file_meta.N_CREATE: _creation,
    file_meta.N_SET: _update,
}
