"""Inquiries with known answers about the cases of a folder: `inquiries.jsonl` beside `cases.jsonl`.

One JSON object a line: `case_id`, `right` (the right answers), and `question`, or `options`; optionally `several`,
`kind`, `similar_cases` and `specialists` (diagnoses given to the model).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from db.answers.answer import Choice, Question
from db.errors import ConfigurationError
from db.states import JobKind
from worker.phantoms import choices, questions
from worker.phantoms.datasets import demo_cases, write_demo_studies
from worker.phantoms.phantoms import TRAINING
from worker.prompting.diagnosis import Guidance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

INQUIRIES = "inquiries.jsonl"
#: Questions about one phantom.
QUESTIONS_PER_PHANTOM = 4
#: A choice whose right diagnosis was removed.
REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class AskedCase:
    """An inquiry about a case, and its right answers; of *kind*, such as `side`, `absent` or `removed`."""

    case_id: str
    right: list[str]
    question: str = ""
    options: list[str] = field(default_factory=list)
    several: bool = False
    kind: str = ""
    similar_cases: list[str] = field(default_factory=list)
    specialists: list[str] = field(default_factory=list)

    @property
    def asked(self) -> Question | Choice:
        """The inquiry as the pipeline receives it."""
        return Question(self.question) if self.question else Choice(self.options, several=self.several)

    @property
    def guidance(self) -> Guidance | None:
        """Diagnoses given to the model; None: those of the similar cases in the index."""
        given = self.similar_cases or self.specialists
        return Guidance(self.similar_cases, self.specialists) if given else None


def read_inquiries(folder: Path, task: JobKind) -> list[AskedCase]:
    """Return the inquiries of a folder for *task*; raises ConfigurationError if a line is invalid or none is left."""
    try:
        lines = (folder / INQUIRIES).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"no readable {INQUIRIES} in {folder}: write one beside cases.jsonl") from error
    read = [_inquiry(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    found = [one for one in read if bool(one.question) == (task == JobKind.QUESTION)]
    if not found:
        raise ConfigurationError(f"no {task} in {INQUIRIES}: expected lines with {_EXPECTED[task]}")
    return found


_EXPECTED = {
    JobKind.QUESTION: "case_id, question and right",
    JobKind.DIAGNOSIS: "case_id, options and right",
}


def _inquiry(number: int, line: str) -> AskedCase:
    """Parse one line; error texts leave out its values."""
    try:
        fields: Any = json.loads(line)
        found = AskedCase(**fields)
    except (json.JSONDecodeError, TypeError) as error:
        raise ConfigurationError(f"invalid line {number} of {INQUIRIES}: expected case_id, right and more") from error
    if not (found.right and (found.question or found.options)):
        raise ConfigurationError(f"invalid line {number} of {INQUIRIES}: question or options, and right, are missing")
    return found


def write_inquiries(folder: Path, inquiries: Iterable[AskedCase]) -> None:
    """Write the inquiries of a folder."""
    lines = (json.dumps(asdict(one)) + "\n" for one in inquiries)
    (folder / INQUIRIES).write_text("".join(lines), encoding="utf-8")


def write_phantom_inquiries(folder: Path, *, count: int, seed: int) -> None:
    """Write *count* phantom studies with questions in held-out wordings and choices, with and without a right one."""
    write_demo_studies(folder, count=count, seed=seed, variation=TRAINING)
    cases, rng = demo_cases(np.random.default_rng((seed, 1)), count), np.random.default_rng((seed, 4))
    write_inquiries(folder, _of_phantoms([(f"{n:05}", case) for n, case in enumerate(cases, start=1)], rng))


def _of_phantoms(cases: Iterable[tuple[str, Any]], rng: np.random.Generator) -> Iterator[AskedCase]:
    for case_id, case in cases:
        for _ in range(QUESTIONS_PER_PHANTOM):
            asked = questions.ask(case, rng, held_out=True)
            yield AskedCase(case_id, [asked.answer], question=asked.text, kind=asked.kind)
        for removed in (False, True):
            drawn = choices.choose(case, rng, removed=removed)
            yield AskedCase(case_id, drawn.answers, options=drawn.options, kind=REMOVED if removed else "one")
