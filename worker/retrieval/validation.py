"""Measure on held-out cases of a site's archive how well the model reads each kind of study there.

The model is given no similar cases: their reports would contain findings that it must read in the images.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from db.studies.modalities import family_of
from worker.findings.labeller import present

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: With fewer cases, or fewer findings in their reports, a kind is not validated: a single finding would decide.
MIN_CASES, MIN_FINDINGS = 8, 8


@dataclass(frozen=True, slots=True)
class Validation:
    """Findings of the cases of a kind: in their reports, in the model's texts, and in both (with side and zone)."""

    cases: int = 0
    reported: int = 0
    generated: int = 0
    right: int = 0

    @property
    def measured(self) -> bool:
        """True if the cases and the findings of their reports are enough."""
        return self.cases >= MIN_CASES and self.reported >= MIN_FINDINGS

    @property
    def f1(self) -> float:
        """Strict F1 of the findings; 1 if there are none in reports and texts."""
        total = self.reported + self.generated
        return 2 * self.right / total if total else 1.0

    def reaches(self, minimum: float) -> bool:
        """Return whether the kind was measured and the model has a strict F1 of *minimum*."""
        return self.measured and self.f1 >= minimum

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> Validation:
        """Return the validation with stored *figures*."""
        return cls(*(figures[name] for name in cls.__dataclass_fields__))

    def figures(self) -> dict[str, Any]:
        """Return the figures as they are stored."""
        return asdict(self) | {"f1": round(self.f1, 3)}


NOT_MEASURED = Validation()


def kind_of(modality: str, body_part: str) -> str:
    """Return the key of a kind of study: modality family and body part."""
    return f"{family_of(modality)} {body_part}".strip()


def validation_of(figures: dict[str, Any], modality: str, body_part: str) -> Validation:
    """Return the stored validation of a kind; without any case if it was not measured."""
    stored = figures.get("validation", {}).get(kind_of(modality, body_part))
    return Validation.of(stored) if stored else Validation()


def held_out(kinds: Sequence[str], owners: Sequence[str], count: int) -> list[int]:
    """Choose the cases to validate each kind with: at most *count* patients, evenly spaced, one case each."""
    of_kind: dict[str, dict[str, int]] = defaultdict(dict)
    for number, (kind, owner) in enumerate(zip(kinds, owners, strict=True)):
        of_kind[kind].setdefault(owner, number)
    chosen = []
    for numbers in (list(patients.values()) for patients in of_kind.values()):
        import numpy as np  # noqa: PLC0415 - `prelim status` reads validations where only the core is installed

        rows = np.linspace(0, len(numbers) - 1, min(len(numbers), count)).astype(int)
        chosen += [numbers[row] for row in np.unique(rows)]
    return sorted(chosen)


def measured(results: Iterable[tuple[str, str, str]]) -> dict[str, Validation]:
    """Compare *results*, a kind, the report of a case and the model's text, by kind."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for kind, report, text in results:
        reported, generated = ({label.strict for label in present(words)} for words in (report, text))
        row = counts[kind]
        for column, value in enumerate((1, len(reported), len(generated), len(reported & generated))):
            row[column] += value
    return {kind: Validation(*row) for kind, row in sorted(counts.items())}
