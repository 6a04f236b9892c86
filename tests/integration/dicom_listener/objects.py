"""Make small synthetic DICOM objects, and put them into a spool without a network."""

from __future__ import annotations

import datetime as dt
import io
import uuid
from typing import TYPE_CHECKING, Any

from pydicom import Dataset, dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from db.studies.settling import study_key
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import Spool
from dicom_listener.spool.file_meta import Reception
from dicom_listener.spool.inbox import Inbox
from dicom_listener.spool.waiting import tag

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


def image(**values: object) -> Dataset:
    """A CT slice of 8 x 8 pixels in a study of its own, with *values* over the defaults."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.Modality = "CT"
    dataset.PatientName = "Müller^Änne"
    dataset.PatientID = "P-1"
    dataset.InstanceNumber = 1
    dataset.Rows = dataset.Columns = 8
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 7, 0, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelData = bytes(64)
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def encode(dataset: Dataset) -> bytes:
    """The data set in Explicit VR Little Endian."""
    buffer = io.BytesIO()
    dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return buffer.getvalue()


def receive(settings: Settings, dataset: Dataset, *, data: bytes | None = None, **reception: Any) -> Path:
    """Write an object to the spool as the listener does; *data* replaces the encoded data set."""
    spool = Spool(settings.spool)
    spool.prepare()
    inbox = Inbox(spool.unowned)
    inbox.open()
    writer = inbox.begin(header(dataset, **reception))
    writer.write(encode(dataset) if data is None else data)
    path = writer.commit()
    inbox.close()
    return path


def header(dataset: Dataset, **reception: Any) -> bytes:
    """The header of the object's file."""
    return file_meta.encode(dataset.SOPClassUID, dataset.SOPInstanceUID, ExplicitVRLittleEndian, received(**reception))


def store(settings: Settings, dataset: Dataset, *, priority: int = 0) -> None:
    """Write an object to the spool under the name that the listener gives it; *priority* 1 is high."""
    path = receive(settings, dataset, priority=priority)
    path.rename(path.with_stem(path.stem + tag(study_key(dataset.StudyInstanceUID), urgent=priority == 1)))


def received(**values: Any) -> Reception:
    """A reception with default values."""
    names = {"association_id": uuid.uuid4().hex, "calling_ae_title": "CT_1", "called_ae_title": "PRELIM", "priority": 0}
    usual = names | {"received_at": dt.datetime.now(dt.UTC)}
    return Reception(**(usual | values), operation=file_meta.C_STORE, peer="127.0.0.1")
