"""Reference cases of one kind of image, and which of them are near to each case of a pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from worker.phantoms import grammar, questions
from worker.phantoms.cases import renamed
from worker.prompting.report import QuotedCase
from worker.retrieval import features
from worker.training.samples import case_of, rare_findings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

    from worker.phantoms.cases import Case
    from worker.training.samples import Pool

#: How many neighbours a prompt holds.
NEIGHBOURS = 3
NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True)
class Shelf:
    """Reference cases and their vectors [cases, n]; by the pool's item number the vector of each item."""

    cases: list[Case]
    vectors: npt.NDArray[np.float32]
    queries: dict[int, npt.NDArray[np.float32]]
    rare_rows: npt.NDArray[np.int64] = field(init=False)
    #: Below it a worker quotes nobody.
    min_similarity: float = field(init=False)

    def __post_init__(self) -> None:
        self.rare_rows = np.array([row for row, case in enumerate(self.cases) if rare_findings(case)], np.int64)
        self.min_similarity = features.min_similarity(self.vectors, np.arange(len(self.cases)))

    def nearest(self, item: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Rows of the nearest cases, best first, and their similarities."""
        similarities = self.vectors @ self.queries[item]
        rows = np.argsort(-similarities)[:NEIGHBOURS]
        return rows, similarities[rows]

    def similar(self, cases: Sequence[QuotedCase]) -> list[QuotedCase]:
        """Those of *cases* that a worker would quote."""
        return [case for case in cases if case.similarity >= self.min_similarity]

    def near(self, item: int, names: Mapping[str, str] = NO_NAMES) -> list[QuotedCase]:
        """The nearest cases, as the index gives them; their findings are called as *names* says."""
        rows, similarities = self.nearest(item)
        return self.quote(rows, similarities, names)

    def wrong(
        self, item: int, rng: np.random.Generator, *, rare: bool, disguised: bool, unlike: Collection[str] = ()
    ) -> list[QuotedCase]:
        """Any cases but those with a finding in *unlike*.

        *disguised* under the similarities of the nearest: only the image tells that they are wrong.
        """
        rows = self.rare_rows if rare and len(self.rare_rows) else np.arange(len(self.cases))
        if unlike:
            rows = np.array([row for row in rows if not any(f.name in unlike for f in self.cases[row].findings)])
        rows = rng.choice(rows, NEIGHBOURS)
        if rare and rng.integers(2):
            rows = np.repeat(rows[:1], NEIGHBOURS)
        if disguised:
            return self.quote(rows, self.nearest(item)[1])
        similarities = self.vectors[rows] @ self.queries[item]
        best_first = np.argsort(-similarities)
        return self.quote(rows[best_first], similarities[best_first])

    def any(self, rng: np.random.Generator) -> list[QuotedCase]:
        """Any cases, under any similarities."""
        rows = rng.choice(len(self.cases), NEIGHBOURS)
        return self.quote(rows, np.sort(rng.uniform(0, 1, NEIGHBOURS))[::-1])

    def labels(self, item: int, rng: np.random.Generator, *, wrong: bool) -> list[str]:
        """The diagnoses of the nearest cases, or of any."""
        rows = rng.choice(len(self.cases), NEIGHBOURS) if wrong else self.nearest(item)[0]
        return [questions.label(self.cases[row]) for row in rows]

    def quote(
        self, rows: npt.NDArray[np.int64], similarities: npt.NDArray[np.floating], names: Mapping[str, str] = NO_NAMES
    ) -> list[QuotedCase]:
        """Cases as the prompt quotes them; each has a style of its own."""
        reports = [grammar.report(renamed(self.cases[row], names), int(row) % grammar.STYLES) for row in rows]
        return [QuotedCase(report, float(s)) for report, s in zip(reports, similarities, strict=True)]


def shelve(
    references: Pool,
    reference_vectors: npt.NDArray[np.float32],
    items: Mapping[str, Sequence[int]],
    vectors: npt.NDArray[np.float32],
) -> dict[str, Shelf]:
    """For each family of *items*, by number, the reference cases of that family; *vectors* are a row an item."""
    shelves = {}
    for family, here in items.items():
        there = references.of(family)
        cases = [case_of(references.items[number]) for number in there]
        shelves[family] = Shelf(cases, reference_vectors[there], {number: vectors[number] for number in here})
    return shelves
