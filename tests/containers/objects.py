"""DICOM objects for the tests of the images."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import gdcm
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)

from tests.fuzz.wire import Client, ct_slice

if TYPE_CHECKING:
    from pathlib import Path


def store_without_study(port: int, count: int) -> None:
    """Send *count* objects without a Study Instance UID in one association."""
    # Not by pynetdicom 3.0.4: its thread for requests of the peer now and then takes an answer that a sender waits for.
    with Client(port, seconds=120) as sender:
        sender.associate()
        for number in range(count):
            sender.store(f"1.2.{number}", ct_slice(f"1.2.{number}", study=""))
        sender.release()


def image() -> Dataset:
    """A grey image of one level, 7."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation = "OT", "MONOCHROME2"
    dataset.Rows = dataset.Columns = 64
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelData = bytes([7]) * 64 * 64
    return dataset


def write_compressed(folder: Path) -> None:
    """Write the image in each compression, with the transfer syntax as the name."""
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset = image()
        dataset.compress(syntax)
        dataset.save_as(folder / f"{syntax}.dcm", enforce_file_format=True)
    dataset, frame = image(), io.BytesIO()
    Image.frombytes("L", (64, 64), dataset.PixelData).save(frame, "JPEG")
    dataset.PixelData = encapsulate([frame.getvalue()])
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(folder / f"{JPEGBaseline8Bit}.dcm", enforce_file_format=True)
    write_jpeg_lossless(folder)


def write_jpeg_lossless(folder: Path) -> None:
    image().save_as(folder / "plain", enforce_file_format=True)
    reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
    reader.SetFileName(str(folder / "plain"))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    writer.SetFileName(str(folder / f"{JPEGLosslessSV1}.dcm"))
    assert writer.Write()
