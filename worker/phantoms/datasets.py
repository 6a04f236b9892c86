"""Write folders of phantom studies with their reference reports: to send, to index and to evaluate with."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np

from db.container_limits import whole_processors
from db.errors import ConfigurationError
from worker.phantoms import choices, grammar
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, draw_case
from worker.phantoms.dicom_files import form_of, study_uid, write_study
from worker.phantoms.phantoms import CAREFUL
from worker.retrieval.case_files import CASES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from worker.phantoms.cases import Case
    from worker.phantoms.phantoms import Variation

#: Reference cases of a demo: enough patients of each image type to reject out-of-distribution images, of each finding
#: to compare drafts with, and about twenty chests with each rare finding.
REFERENCE_CASES = 720
#: Of nine reference cases, those that are no chests; their image types in turn. Heads twice: they have most labels.
OTHERS = (2, 5, 7, 8)
OTHER_IMAGES = ("ct", "mr", "retina", "skin", "ct", "mr", "endoscopy", "pathology")
#: Cases drawn for each ill one: that whose findings are the least frequent so far is kept.
DRAWS = 4
#: Share of the reference chests with a rare finding: an archive holds more of them than a year's studies.
RARE_SHARE = 0.25
#: First patient number of reference cases: those of the same patient would be excluded.
REFERENCE_PATIENTS = 10_000
#: First patient number of calibration cases.
CALIBRATION_PATIENTS = 1_000_000
#: From this number of cases on, they are drawn by one process for each processor.
MIN_CASES_IN_PARALLEL = 32


@dataclass(frozen=True, slots=True)
class DemoStudy:
    """A study on disk, its findings and its reference report."""

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


def write_phantoms(directory: Path, *, count: int, seed: int) -> int:
    """Write *count* phantom studies and their reference reports; returns the number of DICOM files.

    Raises ConfigurationError if *directory* is not empty: files of an older study would be sent with a new one.
    """
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise ConfigurationError(f"{directory} is not empty: choose another folder")
    return sum(len(study.files) for study in write_demo_studies(directory, count=count, seed=seed))


def write_demo_studies(
    directory: Path, *, count: int = 8, seed: int, variation: Variation = CAREFUL
) -> list[DemoStudy]:
    """Write *count* studies, one folder each, of all image types in turn, and list them in cases.jsonl."""
    rng = np.random.default_rng((seed, 1))
    return _write(directory, demo_cases(rng, count), rng, variation)


def demo_cases(rng: np.random.Generator, count: int) -> list[Case]:
    """Draw the cases of `write_demo_studies` from a new generator, seeded with its seed and 1."""
    images = list(CATALOGUE)
    # Eight studies, the default, begin and end with a chest.
    return [draw_case(rng, images[number % len(images)]) for number in range(count)]


def write_reference_cases(directory: Path, *, count: int, seed: int, variation: Variation = CAREFUL) -> list[DemoStudy]:
    """Write *count* reference cases: more than half chests, a quarter of them with a rare finding."""
    rng = np.random.default_rng((seed, 2))
    cases = list(reference_cases(rng, count))
    return _write(directory, cases, rng, variation, first_patient=REFERENCE_PATIENTS, small=True)


def write_calibration_cases(
    directory: Path, *, count: int, seed: int, variation: Variation = CAREFUL
) -> list[DemoStudy]:
    """Write *count* cases distributed as the reference cases, of other patients."""
    rng = np.random.default_rng((seed, 3))
    cases = list(reference_cases(rng, count))
    return _write(directory, cases, rng, variation, first_patient=CALIBRATION_PATIENTS, small=True)


def reference_cases(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Draw *count* reference cases; four of nine are of an image type other than chest."""
    others, drawn = itertools.cycle(OTHER_IMAGES), Counter[tuple[str, str, str]]()
    rare = itertools.cycle(kind.name for kind in CHEST_RARE)
    for number in range(count):
        if number % 9 in OTHERS:
            yield _balanced(rng, drawn, next(others))
        else:
            yield _balanced(rng, drawn, "chest", next(rare) if rng.random() < RARE_SHARE else "")


def _balanced(rng: np.random.Generator, drawn: Counter[tuple[str, str, str]], image: str, rare: str = "") -> Case:
    """Draw a case, healthy as often as any, else with a finding that few cases in *drawn* have; add its findings."""
    case = draw_case(rng, image, rare=rare)
    if case.findings:
        ill = [case, *(other for _ in range(DRAWS - 1) if (other := draw_case(rng, image, rare=rare)).findings)]
        case = min(ill, key=lambda each: min(drawn[label] for label in _labels(each)))
    drawn.update(_labels(case))
    return case


def _labels(case: Case) -> list[tuple[str, str, str]]:
    return [(case.image, finding.name, finding.side) for finding in case.findings]


def _write(
    directory: Path,
    cases: list[Case],
    rng: np.random.Generator,
    variation: Variation,
    *,
    first_patient: int = 1,
    small: bool = False,
) -> list[DemoStudy]:
    directory.mkdir(parents=True, exist_ok=True)
    draw = partial(_draw, directory=directory, first_patient=first_patient, variation=variation, small=small)
    studies = []
    for number, (case, paths) in enumerate(zip(cases, _in_parallel(draw, cases), strict=True), start=1):
        patient = first_patient + number - 1
        studies.append(
            DemoStudy(
                study_instance_uid=study_uid(case, patient),
                case_id=f"{number:05}",
                modality=form_of(case).modality,
                body_part=form_of(case).body_part,
                findings=[asdict(finding) for finding in case.findings],
                report=grammar.write(case, rng),
                labels=choices.diagnoses(case),
                patient=f"PHANTOM-{patient:04}",
                files=[str(path.relative_to(directory)) for path in paths],
            )
        )
    lines = "".join(json.dumps(asdict(study)) + "\n" for study in studies)
    (directory / CASES).write_text(lines, encoding="utf-8")
    return studies


def _draw(numbered: tuple[int, Case], *, directory: Path, first_patient: int, **options: Any) -> list[Path]:
    number, case = numbered
    return write_study(case, directory / f"{number:05}", patient=first_patient + number - 1, **options)


def _in_parallel(draw: Callable[[tuple[int, Case]], list[Path]], cases: list[Case]) -> Iterable[list[Path]]:
    numbered = list(enumerate(cases, start=1))
    if len(cases) < MIN_CASES_IN_PARALLEL:
        return [draw(each) for each in numbered]
    # Spawned, not forked: the caller may have threads.
    with ProcessPoolExecutor(whole_processors(), mp_context=get_context("spawn")) as processes:
        return list(processes.map(draw, numbered, chunksize=8))
