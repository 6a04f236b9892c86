"""Reference sets: reference cases of one family, and the similarity of each sample of a pool to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from worker.phantoms import archive_reports, choices, grammar
from worker.phantoms.cases import with_names
from worker.prompting.report import QuotedCase
from worker.retrieval.features import min_similarity
from worker.training.training_cases import case_of, rare_findings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import numpy.typing as npt

    from worker.phantoms.cases import Case
    from worker.training.training_cases import Pool

#: Cases in a prompt.
NEIGHBOURS = 3
#: Share of the quoted reports of a training in the form that the grammar writes.
AS_WRITTEN = 0.5
NO_NAMES: Mapping[str, str] = MappingProxyType({})


@dataclass(slots=True)
class ReferenceSet:
    """Reference cases and their vectors [cases, n]; `queries` maps a sample's index to its vector."""

    cases: list[Case]
    vectors: npt.NDArray[np.float32]
    queries: dict[int, npt.NDArray[np.float32]]
    #: Draws the form of each quoted report, as in an archive; None for reports as the grammar writes them.
    forms: np.random.Generator | None = None
    rare_rows: npt.NDArray[np.int64] = field(init=False)
    #: Similarity below which a worker quotes no case.
    min_similarity: float = field(init=False)

    def __post_init__(self) -> None:
        self.rare_rows = np.array([row for row, case in enumerate(self.cases) if rare_findings(case)], np.int64)
        self.min_similarity = min_similarity(self.vectors, np.arange(len(self.cases)))

    def nearest(self, sample: int, count: int = NEIGHBOURS) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Return the rows of the nearest cases, best first, and their similarities."""
        similarities = self.vectors @ self.queries[sample]
        rows = np.argsort(-similarities)[:count]
        return rows, similarities[rows]

    def similar(self, cases: Sequence[QuotedCase]) -> list[QuotedCase]:
        """Return those of *cases* that a worker would quote."""
        return [case for case in cases if case.similarity >= self.min_similarity]

    def quote_nearest(self, sample: int, names: Mapping[str, str] = NO_NAMES) -> list[QuotedCase]:
        """Quote the nearest cases; *names* replaces names of their findings."""
        rows, similarities = self.nearest(sample)
        return self.quote(rows, similarities, names)

    def quote_wrong(
        self, sample: int, rng: np.random.Generator, *, rare: bool, disguised: bool, excluded: Collection[str] = ()
    ) -> list[QuotedCase]:
        """Quote random cases, or random rare ones, without those that have a finding in *excluded*.

        *disguised*: with the similarities of the nearest cases, so that only the image shows that they are wrong.
        """
        rows = self.rare_rows if rare and len(self.rare_rows) else np.arange(len(self.cases))
        if excluded:
            rows = np.array([row for row in rows if not any(f.name in excluded for f in self.cases[row].findings)])
        rows = rng.choice(rows, NEIGHBOURS)
        if rare and rng.integers(2):
            rows = np.repeat(rows[:1], NEIGHBOURS)
        if disguised:
            return self.quote(rows, self.nearest(sample)[1])
        similarities = self.vectors[rows] @ self.queries[sample]
        best_first = np.argsort(-similarities)
        return self.quote(rows[best_first], similarities[best_first])

    def quote_random(self, rng: np.random.Generator) -> list[QuotedCase]:
        """Quote random cases with random similarities."""
        rows = rng.choice(len(self.cases), NEIGHBOURS)
        return self.quote(rows, np.sort(rng.uniform(0, 1, NEIGHBOURS))[::-1])

    def labels(self, sample: int, count: int, rng: np.random.Generator) -> list[str]:
        """Return a diagnosis of each of the nearest cases, the most similar first."""
        rows, _ = self.nearest(sample, count)
        return [str(rng.choice(choices.diagnoses(self.cases[row]))) for row in rows]

    def quote(
        self, rows: npt.NDArray[np.int64], similarities: npt.NDArray[np.floating], names: Mapping[str, str] = NO_NAMES
    ) -> list[QuotedCase]:
        """Return cases as the prompt quotes them; the style of a report depends on its row."""
        reports = [self._report(int(row), names) for row in rows]
        return [QuotedCase(report, float(s)) for report, s in zip(reports, similarities, strict=True)]

    def _report(self, row: int, names: Mapping[str, str]) -> str:
        report = grammar.report(with_names(self.cases[row], names), row % grammar.STYLES)
        if self.forms is None or self.forms.random() < AS_WRITTEN:
            return report
        form = int(self.forms.integers(1, archive_reports.FORMS))
        return archive_reports.archived(report, form, np.random.default_rng((row, form)))


def reference_sets(
    references: Pool,
    reference_vectors: npt.NDArray[np.float32],
    samples: Mapping[str, Sequence[int]],
    vectors: npt.NDArray[np.float32],
) -> dict[str, ReferenceSet]:
    """Return a reference set for each family of *samples*, given by index; *vectors* has a row for each sample."""
    sets = {}
    for family, queries in samples.items():
        rows = references.of(family)
        cases = [case_of(references.samples[row]) for row in rows]
        sets[family] = ReferenceSet(cases, reference_vectors[rows], {query: vectors[query] for query in queries})
    return sets
