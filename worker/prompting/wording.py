"""The words given to the model, versioned: MedDr's own wording, and a fixed form for retrieved cases.

Sources: sunanhe/MedDr `examples/instruction_prompt.txt` (report, question, diagnosis), `inference_meddr.py` (report of
a chest x-ray), `inference_gsco.py` (diagnoses of similar cases). MedDr publishes no prompt for a report with retrieved
cases: the sentence here follows its diagnosis prompt. The chat around the words belongs to the checkpoint.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from db.studies.modalities import family_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Stored with every report. Raise it with every change of a word: the demo checkpoint was trained on exactly these.
VERSION = "1"

ASSISTANT = "You are a helpful medical assistant."
REPORT = "Your task is report generation."
CHEST_XRAY_REPORT = (
    "You are given a chest x-ray image and you are required to generate a summary report about the image."
)
OTHER_REPORT = (
    "You are given a {image} image. You need to provide a medical report consisting of findings and impressions."
    " Findings list the observations in detail, and impressions outline the final diagnosis."
)
SIMILAR_REPORTS = "The reports of the most similar cases are:"

#: Family of DICOM modalities -> MedDr's name for such an image.
_IMAGES = {
    "DX": "x-ray", "RF": "x-ray", "XA": "angiography", "MG": "mammography", "CT": "CT", "MR": "MRI",
    "US": "ultrasound", "NM": "nuclear medicine", "PT": "PET", "SM": "pathology", "GM": "pathology",
    "XC": "dermatology", "DMS": "dermatology", "OP": "retinography", "OPT": "retinal tomography", "ES": "endoscopy",
}  # fmt: skip
#: Families whose name is preceded by the body part; the other names imply it.
_WITH_BODY_PART = {"DX", "RF", "XA", "CT", "MR", "US", "NM", "PT"}


def image_name(modality: str, body_part: str) -> str:
    """Return the prompt's name for an image: `chest x-ray`, `head CT`, `retinography`; `medical` if unknown."""
    family = family_of(modality)
    name = _IMAGES.get(family, "medical")
    part = " ".join(re.findall(r"[a-z]+", body_part.lower()))
    return f"{part} {name}" if part and family in _WITH_BODY_PART else name


def diagnosis(modality: str, body_part: str, options: Sequence[str], labels: Sequence[str] = ()) -> str:
    """Return the prompt for one of *options*; *labels* are the diagnoses of the most similar cases, best first."""
    possible = ", ".join(f"'{option}'" for option in options)
    similar = [f"The diagnoses of the most similar cases are {', '.join(labels)}."] if labels else []
    return " ".join(
        (
            ASSISTANT,
            "Your task is disease diagnosis.",
            f"You are given a {image_name(modality, body_part)} image.",
            f"The possible diagnoses are: {possible}.",
            *similar,
            "The response should only contain one option.",
        )
    )


def question(modality: str, text: str) -> str:
    """Return the prompt for a question about the image."""
    name = _IMAGES.get(family_of(modality), "medicine")
    task = f"You are required to answer the following question based on the images about {name}."
    return f"{ASSISTANT} {task} Your answer should be concise. {text.strip()}"
