"""Read MedDr's test files, `*_meta.jsonl` and `*_meta.json`, as a folder of cases: plain images become DICOM objects.

A line has `image` (relative to the file), `id` or `question_id`, and `text` (a report), `question` and `answer`, or
`label` with `rad` and `moed`, the diagnoses of similar cases and of specialists
(sunanhe/MedDr data/, inference_gsco.py).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from db.errors import ConfigurationError
from worker.evaluation.answers.asked_cases import AskedCase, write_inquiries
from worker.retrieval.case_files import CASES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PLAIN = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}
#: Colour of one channel in all three.
GRAY = "L"


def write_folder(meta: Path, folder: Path, *, modality: str, body_part: str) -> None:
    """Write the lines of *meta* into *folder* as cases, with their inquiries.

    Plain images have no header: they get *modality* and *body_part*. Raises ConfigurationError if a line cannot be
    read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = _lines(meta)
    options = sorted({str(line["label"]) for line in lines if line.get("label")})
    cases, inquiries = [], []
    for number, line in enumerate(lines, start=1):
        case_id = f"{number:06}"
        files = [_dicom(meta, name, folder / f"{case_id}.dcm", modality, body_part) for name in _images(line, number)]
        report = str(line.get("text") or line.get("answer") or line.get("label") or "")
        attributes = {"modality": modality, "body_part": body_part, "patient": f"{meta.stem}-{case_id}"}
        cases.append({"case_id": case_id, "files": files, "report": report, **attributes})
        inquiries += _inquiries(case_id, line, options)
    (folder / CASES).write_text("".join(json.dumps(case) + "\n" for case in cases), encoding="utf-8")
    write_inquiries(folder, inquiries)


def _lines(meta: Path) -> list[dict[str, Any]]:
    try:
        text = meta.read_text(encoding="utf-8-sig")
        found: Any = (
            json.loads(text) if meta.suffix == ".json" else [json.loads(one) for one in text.splitlines() if one]
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{meta} cannot be read: expected one JSON object a line, or a list") from error
    if not (isinstance(found, list) and found and all(isinstance(line, dict) for line in found)):
        raise ConfigurationError(f"{meta} cannot be read: expected JSON objects with image, and text, answer or label")
    return found


def _images(line: dict[str, Any], number: int) -> list[str]:
    if not isinstance(line.get("image"), str):
        raise ConfigurationError(f"invalid line {number} of the test file: image is missing")
    return [line["image"]]


def _inquiries(case_id: str, line: dict[str, Any], options: Sequence[str]) -> list[AskedCase]:
    if line.get("question"):
        return [AskedCase(case_id, [str(line.get("answer", ""))], question=str(line["question"]))]
    if not line.get("label"):
        return []
    return [
        AskedCase(
            case_id,
            [str(line["label"])],
            options=list(line.get("options", options)),
            kind="one",
            similar_cases=list(line.get("rad", [])),
            specialists=list(line.get("moed", [])),
        )
    ]


def _dicom(meta: Path, name: str, target: Path, modality: str, body_part: str) -> str:
    """Write the image *name* as a DICOM object, or copy it if it is one; return the path relative to its folder."""
    source = meta.parent / name
    if source.suffix.lower() not in PLAIN:
        try:
            target.write_bytes(source.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"{source} cannot be read: {error.strerror}") from error
        return target.name
    try:
        with Image.open(source) as image:
            pixels = np.asarray(image.convert(GRAY if image.mode in {GRAY, "1", "I;16"} else "RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise ConfigurationError(f"{source} cannot be read as an image") from error
    _secondary_capture(pixels, modality, body_part).save_as(target, enforce_file_format=True)
    return target.name


def _secondary_capture(pixels: np.ndarray[Any, Any], modality: str, body_part: str) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    image.SOPClassUID, image.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.BodyPartExamined, image.SeriesNumber, image.InstanceNumber = modality, body_part, 1, 1
    image.Rows, image.Columns = pixels.shape[:2]
    is_gray = pixels.ndim == len(("rows", "columns"))
    image.SamplesPerPixel = 1 if is_gray else 3
    image.PhotometricInterpretation = "MONOCHROME2" if is_gray else "RGB"
    if not is_gray:
        image.PlanarConfiguration = 0
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    # The value of an OB element has an even length.
    data = pixels.tobytes()
    image.PixelData = data + b"\0" * (len(data) % 2)
    return image
