"""The words given to the model, versioned: MedDr's own wording, and a fixed form for retrieved cases.

Sources: sunanhe/MedDr `examples/instruction_prompt.txt` (report, question, diagnosis), `inference_meddr.py` (report of
a chest x-ray), `inference_gsco.py` (diagnoses of similar cases). MedDr publishes no prompt for a report with retrieved
cases: the sentence here follows its diagnosis prompt. The chat around the words belongs to the checkpoint.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.studies.modalities import family_of

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Stored with every report. Raise it with every change of a word: the demo checkpoint has learnt exactly these.
VERSION = "1"

_ASSISTANT = "You are a helpful medical assistant."
#: Family of DICOM modalities -> MedDr's name for such an image.
_IMAGES = {
    "DX": "x-ray",
    "RF": "x-ray",
    "XA": "angiography",
    "MG": "mammography",
    "CT": "CT",
    "MR": "MRI",
    "US": "ultrasound",
    "NM": "nuclear medicine",
    "PT": "PET",
    "SM": "pathology",
    "GM": "pathology",
    "XC": "dermatology",
    "DMS": "dermatology",
    "OP": "retinography",
    "OPT": "retinal tomography",
    "ES": "endoscopy",
}
#: For these MedDr's name already says the part of the body.
_SAY_THE_PART = {"DX", "RF", "XA", "CT", "MR", "US", "NM", "PT"}
_IMPRESSION = re.compile(r"\b(?:impressions?|conclusions?|beurteilung)\s*:", re.IGNORECASE)
_FINDINGS = re.compile(r"^\s*findings?\s*:", re.IGNORECASE)
#: Longest excerpt of one retrieved case, in characters: three of them stay a small part of 4096 positions.
EXCERPT_CHARACTERS = 400


@dataclass(frozen=True, slots=True)
class Case:
    """A similar earlier case: its report, and how similar it is (cosine, -1 to 1)."""

    report: str
    similarity: float


def image_name(modality: str, body_part: str) -> str:
    """What the prompt calls the image: `chest x-ray`, `head CT`, `retinography`."""
    family = family_of(modality)
    name = _IMAGES.get(family, "medical")
    part = " ".join(re.findall(r"[a-z]+", body_part.lower()))
    return f"{part} {name}" if part and family in _SAY_THE_PART else name


def report(modality: str, body_part: str, cases: Sequence[Case] = ()) -> str:
    """Ask for a report; *cases* best first."""
    image = image_name(modality, body_part)
    if image == "chest x-ray":
        task = f"You are given a {image} image and you are required to generate a summary report about the image."
    else:
        task = (
            f"You are given a {image} image. You need to provide a medical report consisting of findings and"
            " impressions. Findings list the observations in detail, and impressions outline the final diagnosis."
        )
    return " ".join((_ASSISTANT, "Your task is report generation.", task, *_reports_of(cases)))


def _reports_of(cases: Sequence[Case]) -> list[str]:
    if not cases:
        return []
    quoted = (f"({number}, {case.similarity:.2f}) {excerpt(case.report)}" for number, case in enumerate(cases, start=1))
    return ["The reports of the most similar cases are:", *quoted]


def excerpt(text: str) -> str:
    """The part of a case's report that is quoted: its impression, or all of it where there is none."""
    _, impression = split_report(text)
    words = " ".join((impression or text).split())
    return words if len(words) <= EXCERPT_CHARACTERS else words[: EXCERPT_CHARACTERS - 3].rsplit(" ", 1)[0] + "..."


def diagnosis(modality: str, body_part: str, options: Sequence[str], labels: Sequence[str] = ()) -> str:
    """Ask for one of *options*; *labels* are the diagnoses of the most similar cases, best first."""
    possible = ", ".join(f"'{option}'" for option in options)
    similar = [f"The diagnoses of the most similar cases are {', '.join(labels)}."] if labels else []
    return " ".join(
        (
            _ASSISTANT,
            "Your task is disease diagnosis.",
            f"You are given a {image_name(modality, body_part)} image.",
            f"The possible diagnoses are: {possible}.",
            *similar,
            "The response should only contain one option.",
        )
    )


def question(modality: str, text: str) -> str:
    """Ask a question about the image."""
    name = _IMAGES.get(family_of(modality), "medicine")
    asked = f"You are required to answer the following question based on the images about {name}."
    return f"{_ASSISTANT} {asked} Your answer should be concise. {text.strip()}"


def split_report(text: str) -> tuple[str, str]:
    """Findings and impression of a report; without headings everything is findings."""
    parts = _IMPRESSION.split(text, maxsplit=1)
    findings = _FINDINGS.sub("", parts[0]).strip()
    return findings, parts[1].strip() if len(parts) > 1 else ""
