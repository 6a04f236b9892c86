"""Synthetic CT slices for benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydicom import FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def write_slice(path: Path, pixels: NDArray[Any], sop_class: str, study: str, series: str) -> None:
    """Write *pixels* (rows, columns; uint16) as a slice in Explicit VR Little Endian, with a usual header."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
    dataset.PatientName, dataset.PatientID = "Bench^Mark", "BENCH"
    dataset.Modality, dataset.StudyDate, dataset.StudyTime = "CT", "20260101", "120000"
    dataset.Manufacturer, dataset.StationName, dataset.BodyPartExamined = "Prelim", "BENCH", "CHEST"
    dataset.SliceThickness, dataset.KVP, dataset.PixelSpacing = "1.25", "120", ["0.7", "0.7"]
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    dataset.RescaleIntercept, dataset.RescaleSlope = "-1024", "1"
    dataset.WindowCenter, dataset.WindowWidth = "40", "400"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path, enforce_file_format=True)
