"""Builder of small DICOM files; each test states only the attributes it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from worker.images.study import StoredInstance

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


class Store(Protocol):
    """Writes an image object; keywords are its elements, `pixels` its samples."""

    def __call__(self, pixels: npt.NDArray[Any], *, syntax: str = ..., **elements: Any) -> StoredInstance: ...


@pytest.fixture
def store(tmp_path: Path) -> Store:
    def write(pixels: npt.NDArray[Any], *, syntax: str = ExplicitVRLittleEndian, **elements: Any) -> StoredInstance:
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SeriesNumber = "1.2", "1.2.3", 3
        dataset.Modality = "CT"
        _describe(dataset, pixels)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        if syntax != ExplicitVRLittleEndian:
            dataset.compress(syntax, generate_instance_uid=False)
        path = tmp_path / f"{dataset.SOPInstanceUID}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return StoredInstance(path, dataset.SOPInstanceUID)

    return write


def _describe(dataset: Dataset, pixels: npt.NDArray[Any]) -> None:
    bits = 8 * pixels.dtype.itemsize
    colour = pixels.shape[-1] == 3
    frame = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    dataset.Rows, dataset.Columns = frame
    if pixels.ndim > (3 if colour else 2):
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel = 3 if colour else 1
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)


@pytest.fixture
def ramp() -> npt.NDArray[np.int16]:
    """Every value from -1024 to 3071, 64 x 64."""
    return np.arange(-1024, 3072, dtype=np.int16).reshape(64, 64)
