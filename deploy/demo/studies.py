"""Folders of made-up studies with their truth: to send, to ground reports in, and to measure with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from deploy.demo import grammar, questions
from deploy.demo.cases import CATALOGUE, CHEST_RARE, draw_case
from deploy.demo.dicom import form_of, study_uid, write_study
from deploy.demo.phantoms import CAREFUL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.demo.cases import Case
    from deploy.demo.phantoms import Variation

#: What every folder of cases lists them in: one JSON object a line, as `prelim reference build` and `evaluate` read it.
CASES = "cases.jsonl"
#: Of the reference cases of the chest, how many show a rare finding: a hospital's archive holds what a year has not.
RARE_AMONG_REFERENCES = 0.25


@dataclass(frozen=True, slots=True)
class DemoStudy:
    """A study on disk and its truth."""

    study_instance_uid: str
    case_id: str
    modality: str
    body_part: str
    findings: list[dict[str, str]]
    report: str
    labels: list[str]
    patient: str
    #: Relative to the folder.
    files: list[str]


def write_demo_studies(
    directory: Path, *, count: int = 8, seed: int, variation: Variation = CAREFUL
) -> list[DemoStudy]:
    """Write *count* studies, each in a folder of its own, every kind of picture in turn; lists them in cases.jsonl."""
    rng = np.random.default_rng((seed, 1))
    pictures = list(CATALOGUE)
    # A chest first and last: it is what most people send.
    cases = [draw_case(rng, pictures[number % len(pictures)]) for number in range(count)]
    return _write(directory, cases, rng, variation)


def write_reference_cases(directory: Path, *, count: int, seed: int) -> list[DemoStudy]:
    """Write *count* earlier cases: half of them chests, a quarter of those with a finding rare elsewhere."""
    rng = np.random.default_rng((seed, 2))
    return _write(directory, list(_references(rng, count)), rng, CAREFUL, small=True)


def _references(rng: np.random.Generator, count: int) -> Iterator[Case]:
    others = [picture for picture in CATALOGUE if picture != "chest"]
    rare = [kind.name for kind in CHEST_RARE]
    for number in range(count):
        if number % 2:
            yield draw_case(rng, others[number // 2 % len(others)])
        else:
            name = rare[number // 2 % len(rare)] if rng.random() < RARE_AMONG_REFERENCES else ""
            yield draw_case(rng, "chest", rare=name)


def _write(
    directory: Path, cases: list[Case], rng: np.random.Generator, variation: Variation, *, small: bool = False
) -> list[DemoStudy]:
    directory.mkdir(parents=True, exist_ok=True)
    studies = []
    for number, case in enumerate(cases, start=1):
        paths = write_study(case, directory / f"{number:05}", patient=number, variation=variation, small=small)
        studies.append(
            DemoStudy(
                study_instance_uid=study_uid(case, number),
                case_id=f"{number:05}",
                modality=form_of(case).modality,
                body_part=form_of(case).body_part,
                findings=[asdict(finding) for finding in case.findings],
                report=grammar.write(case, rng),
                labels=[finding.name for finding in case.findings] or [questions.NORMAL],
                patient=f"PHANTOM-{number:04}",
                files=[str(path.relative_to(directory)) for path in paths],
            )
        )
    lines = "".join(json.dumps(asdict(study)) + "\n" for study in studies)
    (directory / CASES).write_text(lines, encoding="utf-8")
    return studies
