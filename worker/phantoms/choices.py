"""Choices between diagnoses of a case, and diagnoses of other cases and specialists that may be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from worker.phantoms.cases import CATALOGUE, UNCLASSIFIED
from worker.prompting.wording import NONE_OF_THESE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from worker.phantoms.cases import Case

NORMAL = "normal"
MAX_OPTIONS = 8
#: Shares of choices without the right diagnosis, with an option of another image type, and with all findings asked.
REMOVED, OTHER_TYPE = 0.22, 0.25
#: Kinds of other images that would also be right.
_ALIKE = {"haemorrhage", "retinal haemorrhages", "bleeding", "mass", "tumour", "ulcer", "ulceration"}


class DrawnChoice(NamedTuple):
    """Options without "none of these", and the right answers: that option if none of the others is right."""

    options: list[str]
    answers: list[str]


def diagnoses(case: Case) -> list[str]:
    """Return all diagnoses of a case: its findings, else normal; one abnormality if it is of no finding."""
    names = [finding.name for finding in case.findings] + ([UNCLASSIFIED] if case.distractor else [])
    return names or [NORMAL]


def label(case: Case) -> str:
    """Return the diagnosis that labels a case."""
    return diagnoses(case)[0]


def choose(case: Case, rng: np.random.Generator, *, removed: bool | None = None) -> DrawnChoice:
    """Return options with exactly one right diagnosis; *removed*: without it, by default in one of five."""
    right, wrong = _right_and_wrong(case, rng)
    removed = rng.random() < REMOVED if removed is None else removed
    count = int(rng.integers(1, MAX_OPTIONS + 1))
    kept = [] if removed else [str(rng.choice(right))]
    options = [*kept, *wrong[: max(count - len(kept), not kept)]]
    return DrawnChoice([str(option) for option in rng.permutation(options)], kept or [NONE_OF_THESE])


def choose_several(case: Case, rng: np.random.Generator) -> DrawnChoice:
    """Return options of which any number is right."""
    right, wrong = _right_and_wrong(case, rng)
    kept = [name for name in right if rng.random() > REMOVED]
    options = [*kept, *wrong[: int(rng.integers(1, MAX_OPTIONS - 1))]]
    options = [str(option) for option in rng.permutation(options)]
    return DrawnChoice(options, [option for option in options if option in kept] or [NONE_OF_THESE])


def _right_and_wrong(case: Case, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    right = diagnoses(case)
    wrong = [kind.name for kind in CATALOGUE[case.image] if kind.name not in right]
    wrong += [NORMAL] if NORMAL not in right else []
    if rng.random() < OTHER_TYPE:
        known = {kind.name for kind in CATALOGUE[case.image]} | _ALIKE
        other = sorted({kind.name for kinds in CATALOGUE.values() for kind in kinds} - known)
        wrong.append(str(rng.choice(other)))
    return right, [str(name) for name in rng.permutation(wrong)]


def specialists(case: Case, rng: np.random.Generator, *, accuracy: float) -> list[str]:
    """Return diagnoses by one to four models of the given accuracy; they err in the same way in half of the cases."""
    count = int(rng.integers(1, 5))
    same = rng.random() < 0.5  # noqa: PLR2004 - in half of the cases
    first = _predicted(case, rng, accuracy)
    return [first if same else _predicted(case, rng, accuracy) for _ in range(count)]


def _predicted(case: Case, rng: np.random.Generator, accuracy: float) -> str:
    right = diagnoses(case)
    return str(rng.choice(right)) if rng.random() < accuracy else wrong_label(case, rng)


def wrong_label(case: Case, rng: np.random.Generator, among: Sequence[str] = ()) -> str:
    """Return a diagnosis that the case does not have, if possible one of *among*."""
    right = diagnoses(case)
    names = [name for name in among if name not in right and name != NONE_OF_THESE]
    names = names or [name for name in (*(kind.name for kind in CATALOGUE[case.image]), NORMAL) if name not in right]
    return str(rng.choice(names))
