"""Chest radiographs of another generator than worker.phantoms: other shapes and greys, reports in other sentences.

The demo checkpoint cannot read them, as a site's images that a model was not made for.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Plane = NDArray[np.floating]

SIDE = 384
ROWS, COLUMNS = np.mgrid[0:SIDE, 0:SIDE] / SIDE
HEIGHTS = {"upper": 0.30, "middle": 0.45, "lower": 0.62}
#: Sentences of each finding, for its side and zone.
SENTENCES = {
    "nodule": ("A rounded density projects over the {0} {1} zone, in keeping with a nodule.", "{0} {1} zone nodule."),
    "effusion": ("The {0} costophrenic angle is blunted by a pleural effusion.", "Moderate {0} pleural effusion."),
    "consolidation": ("There is airspace consolidation in the {0} {1} zone.", "{0} {1} zone consolidation."),
    "pneumothorax": ("A {0} pneumothorax is identified.", "{0} apical pneumothorax."),
    "pacemaker": ("A pacemaker overlies the {0} chest.", "{0} sided pacemaker in situ."),
    "cardiomegaly": ("The cardiac silhouette is enlarged: cardiomegaly.", "Cardiomegaly."),
}
NORMAL = "Both lungs are well aerated and the costophrenic recesses are sharp.", "Unremarkable examination."


class Finding(NamedTuple):
    """A finding in its place."""

    name: str
    side: str
    zone: str


def write_chests(folder: Path, *, count: int, seed: int) -> None:
    """Write *count* studies of one image and cases.jsonl; other seeds give other patients."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    with (folder / "cases.jsonl").open("w", encoding="utf-8") as lines:
        for number in range(count):
            findings, name = drawn_findings(rng), f"{seed}-{number}"
            data_set(image(rng, findings), name).save_as(folder / f"{name}.dcm", enforce_file_format=True)
            case = {"case_id": name, "files": [f"{name}.dcm"], "report": report(rng, findings)}
            lines.write(json.dumps(case | {"modality": "DX", "body_part": "CHEST"}) + "\n")


def drawn_findings(rng: np.random.Generator) -> list[Finding]:
    """Draw none, one or two findings."""
    names = rng.permutation([*SENTENCES])[: rng.choice([0, 1, 2], p=[0.3, 0.45, 0.25])]
    return [Finding(str(n), str(rng.choice(["left", "right"])), str(rng.choice([*HEIGHTS]))) for n in names]


def report(rng: np.random.Generator, findings: list[Finding]) -> str:
    """Write a report in the sentences of this generator."""
    style = int(rng.integers(2))
    told = [SENTENCES[one.name][style].format(one.side, one.zone) for one in findings]
    text = " ".join(sentence[0].upper() + sentence[1:] for sentence in told)
    return f"Findings: PA film. {text or NORMAL[0]} Impression: {text or NORMAL[1]}"


def image(rng: np.random.Generator, findings: list[Finding]) -> NDArray[np.uint16]:
    """Draw a frontal chest with 12 bits."""
    across = COLUMNS - 0.5 - rng.normal(0, 0.015)
    wide = rng.uniform(0.9, 1.1)
    grey = 0.72 * np.clip(1 - (across / (0.47 * wide)) ** 4 - ((ROWS - 0.62) / 0.62) ** 6, 0, 1) ** 0.3
    for sign in (-1, 1):
        inside = 1 - np.hypot((across - sign * 0.2 * wide) / 0.145, (ROWS - 0.47) / 0.33)
        grey -= 0.45 / (1 + np.exp(-16 * inside)) * (1 - 0.25 * blob(across - sign * 0.1, ROWS - 0.5, 0.1, 0.25))
        for rib in range(8):
            out = np.clip(sign * across / 0.36, 0, 1)
            height = 0.17 + rib * 0.078 - 0.07 * np.sin(np.pi * out) + 0.1 * out
            grey += 0.09 * np.exp(-(((ROWS - height) / 0.008) ** 2)) * (sign * across > 0) * (out < 1)
    heart = 0.195 if any(one.name == "cardiomegaly" for one in findings) else 0.13
    grey += 0.33 * np.exp(-((across / 0.035) ** 2)) + 0.3 * blob(across - 0.06, ROWS - 0.63, heart, 0.14)
    for one in findings:
        grey += opacity(one, across * (1 if one.side == "left" else -1), rng)
    exposed = np.clip(grey + rng.normal(0, 0.02, grey.shape), 0, 1) ** rng.uniform(0.8, 1.25)
    return (exposed * 3800 + 100).astype(np.uint16)


def opacity(finding: Finding, out: Plane, rng: np.random.Generator) -> Plane:
    """Return what a finding adds to the grey level; *out* is the distance from the midline on its side."""
    height = HEIGHTS[finding.zone]
    beside = (out > 0.05) & (out < 0.37)
    apex = (out > 0.24) & (out < 0.35) & (ROWS > 0.18) & (ROWS < 0.5)
    drawn: dict[str, Plane] = {
        "nodule": 0.33 * (np.hypot(out - 0.22, ROWS - height) < 0.03),
        "effusion": 0.42 / (1 + np.exp(-60 * (ROWS - 0.73 + 0.25 * out))) * beside,
        "consolidation": 0.22 * blob(out - 0.2, ROWS - height, 0.07, 0.06) * (1 + 0.3 * rng.standard_normal(out.shape)),
        "pneumothorax": -0.12 * apex,
        "pacemaker": 0.5 * ((abs(out - 0.27) < 0.04) & (abs(ROWS - 0.2) < 0.03)),
        "cardiomegaly": np.zeros(out.shape),
    }
    return drawn[finding.name]


def blob(x: Plane, y: Plane, width: float, height: float) -> Plane:
    """Return a smooth spot around 0."""
    return np.exp(-((x / width) ** 2) - (y / height) ** 2)


def data_set(pixels: NDArray[np.uint16], patient: str) -> Dataset:
    """Return a DX image of a patient."""
    dicom, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = dicom.SOPClassUID = DigitalXRayImageStorageForPresentation
    dicom.file_meta = meta
    dicom.SOPInstanceUID, dicom.StudyInstanceUID, dicom.SeriesInstanceUID = (generate_uid() for _ in range(3))
    dicom.PatientID, dicom.Modality, dicom.BodyPartExamined, dicom.ViewPosition = patient, "DX", "CHEST", "PA"
    dicom.PatientOrientation, dicom.SeriesNumber, dicom.InstanceNumber = ["L", "F"], 1, 1
    dicom.Rows, dicom.Columns = pixels.shape
    dicom.SamplesPerPixel, dicom.PhotometricInterpretation, dicom.PixelRepresentation = 1, "MONOCHROME2", 0
    dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit = 16, 12, 11
    dicom.PixelData = pixels.tobytes()
    return dicom
