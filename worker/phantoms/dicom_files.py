"""Write phantoms as DICOM files: one study for each case, marked as synthetic and accepted by common receivers."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset

from worker.phantoms.phantoms import CAREFUL, Variation, draw, hounsfield

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from worker.phantoms.cases import Case

#: Slices of a volume; levels of its first and last, -TOP_LEVEL (foot) to TOP_LEVEL (head).
SLICES = 24
TOP_LEVEL = 0.9
SLICE_MM = 6.0
SLIDE_PIXELS = 512
#: Twice the resolution of the demo checkpoint; more slices than a worker selects.
SMALL_PIXELS, SMALL_SLICES = 256, 12
TILE_PIXELS = 256
#: Stored value of 0 Hounsfield units, so that that of air is about 0.
AIR = 1024


@dataclass(frozen=True, slots=True)
class Form:
    """Modality, SOP class, body part and pixels on a side of an image type."""

    modality: str
    sop_class: uid.UID
    body_part: str
    size: int


FORMS = {
    "chest": Form("DX", uid.DigitalXRayImageStorageForPresentation, "CHEST", 640),
    "ct": Form("CT", uid.CTImageStorage, "HEAD", 256),
    "mr": Form("MR", uid.MRImageStorage, "HEAD", 192),
    "retina": Form("OP", uid.OphthalmicPhotography8BitImageStorage, "EYE", 384),
    "skin": Form("XC", uid.VLPhotographicImageStorage, "SKIN", 384),
    "endoscopy": Form("ES", uid.VLEndoscopicImageStorage, "COLON", 384),
    "pathology": Form("SM", uid.VLWholeSlideMicroscopyImageStorage, "COLON", SLIDE_PIXELS),
}
#: Every third chest is stored as computed radiography.
CR = Form("CR", uid.ComputedRadiographyImageStorage, "CHEST", 512)


def write_study(
    case: Case, directory: Path, *, patient: int = 1, variation: Variation = CAREFUL, small: bool = False
) -> list[Path]:
    """Write *case* as a study into *directory*; returns its files. The same arguments give the same bytes.

    *small*: fewer pixels and slices, faster to draw, enough for a model with a few hundred pixels on a side.
    """
    directory.mkdir(parents=True, exist_ok=True)
    form = form_of(case)
    if small and case.image != "pathology":
        form = replace(form, size=min(form.size, SMALL_PIXELS))
    datasets = _objects(case, form, variation, slices=SMALL_SLICES if small else SLICES)
    paths = []
    for number, dataset in enumerate(datasets, start=1):
        _identify(dataset, case, form, patient, number)
        path = directory / f"{number:04}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def _objects(case: Case, form: Form, variation: Variation, *, slices: int) -> list[FileDataset]:
    if case.image in {"ct", "mr"}:
        return _volume(case, form, variation, slices=slices)
    return {"chest": _radiographs, "pathology": _slide}.get(case.image, _colour)(case, form, variation)


def form_of(case: Case) -> Form:
    """Return the form of *case*; every third chest is computed radiography."""
    return CR if case.image == "chest" and case.seed % 3 == 0 else FORMS[case.image]


def study_uid(case: Case, patient: int) -> str:
    """Return the Study Instance UID of a case."""
    return uid.generate_uid(entropy_srcs=["prelim phantom study", case.image, str(case.seed), str(patient)])


def _radiographs(case: Case, form: Form, variation: Variation) -> list[FileDataset]:
    """Return a frontal view, for every fourth case also a lateral one; every fifth is MONOCHROME1."""
    views = [("PA", case)]
    if case.seed % 4 == 0:
        views.append(("LL", replace(case, image="lateral")))
    return [_radiograph(view, one, form, variation, bone_black=case.seed % 5 == 0) for view, one in views]


def _radiograph(view: str, case: Case, form: Form, variation: Variation, *, bone_black: bool) -> FileDataset:
    grey = draw(case, size=form.size, variation=variation).image
    depth = (1 << 12) - 1
    stored = np.round(grey * depth).astype(np.uint16)
    dataset = _grey(form, depth - stored if bone_black else stored, bits=12)
    dataset.PhotometricInterpretation = "MONOCHROME1" if bone_black else "MONOCHROME2"
    dataset.ViewPosition = view
    dataset.WindowCenter, dataset.WindowWidth = (depth + 1) / 2, depth + 1
    dataset.PresentationLUTShape = "INVERSE" if bone_black else "IDENTITY"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PixelSpacing = dataset.ImagerPixelSpacing = [round(400 / form.size, 4)] * 2
    dataset.ImageLaterality = "U"
    dataset.PatientOrientation = ["L", "F"] if view == "PA" else ["P", "F"]
    return dataset


def _volume(case: Case, form: Form, variation: Variation, *, slices: int) -> list[FileDataset]:
    spacing = SLICE_MM * (SLICES - 1) / (slices - 1)
    return [
        _slice(replace(case, level=float(level)), round(number * spacing, 3), form, variation)
        for number, level in enumerate(np.linspace(-TOP_LEVEL, TOP_LEVEL, slices))
    ]


def _slice(case: Case, place: float, form: Form, variation: Variation) -> FileDataset:
    if case.image == "ct":
        stored = hounsfield(case, size=form.size, variation=variation)[0] + AIR
    else:
        stored = np.round(draw(case, size=form.size, variation=variation).image * 1000)
    dataset = _grey(form, stored.astype(np.uint16), bits=12)
    if case.image == "ct":
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = -AIR, 1, "HU"
        dataset.WindowCenter, dataset.WindowWidth, dataset.KVP = 40, 80, 120
    else:
        dataset.WindowCenter, dataset.WindowWidth = 500, 1000
        dataset.ScanningSequence, dataset.SequenceVariant, dataset.ScanOptions = "SE", "SK", ""
        dataset.MRAcquisitionType, dataset.EchoTime, dataset.RepetitionTime = "2D", 90, 9000
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    spacing = round(220 / form.size, 4)
    dataset.PixelSpacing = [spacing, spacing]
    dataset.SliceThickness = SLICE_MM
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.ImagePositionPatient = [-110, -110, place]
    dataset.SliceLocation = place
    return dataset


def _colour(case: Case, form: Form, variation: Variation) -> list[FileDataset]:
    dataset = _rgb(form, draw(case, size=form.size, variation=variation).rgb())
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    if form.modality == "OP":
        dataset.ImageLaterality = "R"
        dataset.BurnedInAnnotation = "NO"
    return [dataset]


def _slide(case: Case, form: Form, variation: Variation) -> list[FileDataset]:
    """Return a tiled pyramid of two levels."""
    full = draw(case, size=form.size, variation=variation).rgb()
    half = full.reshape(form.size // 2, 2, form.size // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    return [_level(form, pixels, derived=pixels is half) for pixels in (full, half)]


def _level(form: Form, pixels: npt.NDArray[np.uint8], *, derived: bool) -> FileDataset:
    side = pixels.shape[0]
    tiles = side // TILE_PIXELS
    frames = pixels.reshape(tiles, TILE_PIXELS, tiles, TILE_PIXELS, 3).transpose(0, 2, 1, 3, 4)
    dataset = _rgb(form, frames.reshape(-1, TILE_PIXELS, 3))
    dataset.Rows = dataset.Columns = TILE_PIXELS
    dataset.NumberOfFrames = tiles * tiles
    dataset.TotalPixelMatrixRows = dataset.TotalPixelMatrixColumns = side
    dataset.TotalPixelMatrixFocalPlanes, dataset.NumberOfOpticalPaths = 1, 1
    dataset.DimensionOrganizationType = "TILED_FULL"
    dataset.ImageType = ["DERIVED" if derived else "ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if derived else "NONE"]
    dataset.ImagedVolumeWidth = dataset.ImagedVolumeHeight = 1.0
    dataset.ImagedVolumeDepth = 0.005
    dataset.SpecimenLabelInImage, dataset.FocusMethod, dataset.ExtendedDepthOfField = "NO", "AUTO", "NO"
    dataset.VolumetricProperties, dataset.BurnedInAnnotation = "VOLUME", "NO"
    dataset.ContainerIdentifier = "PHANTOM"
    dataset.LossyImageCompression = "00"
    spacing = Dataset()
    spacing.PixelSpacing = [round(1.0 / side, 6)] * 2
    spacing.SliceThickness = 0.005
    shared = Dataset()
    shared.PixelMeasuresSequence = [spacing]
    dataset.SharedFunctionalGroupsSequence = [shared]
    return dataset


def _grey(form: Form, stored: npt.NDArray[np.uint16], *, bits: int) -> FileDataset:
    dataset = _empty(form, stored.shape[0], stored.shape[1])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, bits, bits - 1, 0
    dataset.PixelData = stored.astype("<u2").tobytes()
    return dataset


def _rgb(form: Form, pixels: npt.NDArray[np.uint8]) -> FileDataset:
    dataset = _empty(form, pixels.shape[0], pixels.shape[1])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = pixels.tobytes()
    dataset.LossyImageCompression = "00"
    return dataset


def _empty(form: Form, rows: int, columns: int) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = form.sop_class
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.Modality = form.sop_class, form.modality
    dataset.Rows, dataset.Columns = rows, columns
    return dataset


def _identify(dataset: FileDataset, case: Case, form: Form, patient: int, number: int) -> None:
    """Set the identifiers; every name and number marks the study as synthetic."""
    study = study_uid(case, patient)
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = uid.generate_uid(entropy_srcs=[study, "series"])
    dataset.SOPInstanceUID = uid.generate_uid(entropy_srcs=[study, str(number)])
    dataset.FrameOfReferenceUID = uid.generate_uid(entropy_srcs=[study, "frame of reference"])
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID = f"PHANTOM^{patient:04}", f"PHANTOM-{patient:04}"
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "O"
    dataset.StudyID, dataset.AccessionNumber = str(patient), f"PH{patient:06}"
    day = dt.date(2025, 1, 1) + dt.timedelta(days=int(hashlib.sha256(study.encode()).hexdigest(), 16) % 365)
    dataset.StudyDate = dataset.SeriesDate = dataset.ContentDate = day.strftime("%Y%m%d")
    dataset.StudyTime = dataset.SeriesTime = dataset.ContentTime = "120000"
    dataset.AcquisitionDateTime = dataset.StudyDate + dataset.StudyTime
    dataset.StudyDescription = f"Synthetic phantom, {form.modality}"
    dataset.Manufacturer, dataset.ManufacturerModelName = "Prelim phantoms", "no patient"
    dataset.InstitutionName = "No hospital"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber, dataset.InstanceNumber = 1, number
    dataset.BodyPartExamined = form.body_part
    dataset.Laterality = ""
    dataset.SpecificCharacterSet = "ISO_IR 192"
