"""The words given to the model, versioned: a report says which version made it.

The tasks are worded as MedDr was trained on them (sunanhe/MedDr, inference_meddr.py and inference_gsco.py): one line,
no trailing space. MedDr gives retrieved cases as the labels of its neighbours; for reports we quote their text the
same way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Raised with every change of a word, because a changed prompt is a changed model.
VERSION = "1"

#: How a modality's picture is called in a sentence (DICOM PS3.3 C.7.3.1.1.1).
PICTURES = {
    "CR": "x-ray",
    "DX": "x-ray",
    "RF": "x-ray",
    "XA": "x-ray",
    "MG": "mammography",
    "CT": "CT",
    "MR": "MR",
    "US": "ultrasound",
    "NM": "nuclear medicine",
    "PT": "PET",
    "SM": "pathology",
    "GM": "pathology",
    "XC": "dermatology",
    "DMS": "dermatology",
    "OP": "retinography",
    "OPT": "retinography",
    "ES": "endoscopy",
}
#: A quoted report is cut here, in characters: three of them and the pictures must fit the model's context.
EXCERPT_CHARACTERS = 600

SPOKEN_AS_VOWELS = ("a", "e", "i", "o", "u", "x-ray", "MR")

_HEADINGS = re.compile(r"\b(findings|impression)\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Case:
    """An earlier case: its words, and its cosine similarity to the pictures in question."""

    text: str
    similarity: float


def report(modality: str, body_part: str, cases: Sequence[Case] = ()) -> str:
    """Ask for a report; *cases* are quoted the most similar first."""
    subject = f"{body_part.lower()} {PICTURES.get(modality, 'medical')}".strip()
    article = "an" if subject.startswith(SPOKEN_AS_VOWELS) else "a"
    parts = [
        "You are a helpful medical assistant. Your task is report generation.",
        (f"You are given {article} {subject} image and you are required to generate a summary report about the image."),
    ]
    if cases:
        quoted = " ".join(f"({rank}) {_excerpt(case.text)}" for rank, case in enumerate(cases, start=1))
        parts.append(f"The reports of the most similar cases are: {quoted}")
    return " ".join(parts)


def diagnosis(options: Sequence[str], labels: Sequence[str] = ()) -> str:
    """Ask which of *options* it is; *labels* are the diagnoses of similar cases, the most similar first."""
    listed = ", ".join(f"'{option}'" for option in options)
    parts = [
        "You are a helpful medical assistant. Your task is disease diagnosis.",
        f"You are given a medical image. The possible diagnoses are: {listed}.",
    ]
    if labels:
        parts.append(f"The diagnoses of the most similar cases are {', '.join(labels)}.")
    parts.append("The response should only contain one option.")
    return " ".join(parts)


def question(text: str) -> str:
    """Ask a question about the pictures."""
    return (
        "You are a helpful medical assistant. Your task is visual question answering."
        f" You are given a medical image and a question. {text.strip()}"
    )


def split_report(text: str) -> tuple[str, str]:
    """Findings and impression of a generated report; without headings all of it is findings."""
    parts = _HEADINGS.split(text)
    sections = {"findings": parts[0].strip(), "impression": ""}
    for heading, body in zip(parts[1::2], parts[2::2], strict=True):
        name = heading.lower()
        sections[name] = f"{sections[name]} {body.strip()}".strip()
    return sections["findings"], sections["impression"]


def _excerpt(text: str) -> str:
    """One line, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= EXCERPT_CHARACTERS:
        return line
    return line[:EXCERPT_CHARACTERS].rsplit(" ", 1)[0] + " ..."
