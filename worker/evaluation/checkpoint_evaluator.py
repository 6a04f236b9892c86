"""Evaluate a checkpoint on fresh phantoms: reports with given reference cases, and out-of-distribution scores.

Works on arrays in batches, with a worker's prompts, images and features but without DICOM files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worker.evaluation.text_metrics import Pair
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE
from worker.prompting.report import QuotedCase, report_prompt
from worker.training.language import Example
from worker.training.reference_set import reference_sets
from worker.training.train import embed, fit_stats, reference_shares
from worker.training.training_cases import MODALITY, Pool, Sample, case_of, make_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from worker.training.demo_model import DemoModel, ImageTokens
    from worker.training.reference_set import ReferenceSet

    #: Returns the cases quoted for a sample of a pool, given its index.
    Quote = Callable[[int], list[QuotedCase]]

#: Far from the seeds of training.
SEED = 3_100_000


@dataclass(frozen=True, slots=True)
class Size:
    """Number of cases: chests, each other family, each rare finding, each type of negative, reference chests."""

    chests: int = 400
    others: int = 80
    rare: int = 64
    negatives: int = 40
    references: int = 3000


@dataclass(frozen=True, slots=True)
class EncodedPool:
    """A pool with the tower's tokens, a reference set for each family and the score of each image."""

    pool: Pool
    tokens: ImageTokens
    reference_sets: dict[str, ReferenceSet]
    scores: npt.NDArray[np.float32]


class CheckpointEvaluator:
    """A checkpoint with a fresh reference set."""

    def __init__(self, model: DemoModel, size: Size, seed: int = SEED) -> None:
        self.size, self.seed = size, seed
        self.rng = np.random.default_rng(seed)
        self.references = make_pool(reference_shares(size.references), seed=seed + 1)
        self.stats = fit_stats(model, self.references)
        self._model = model
        self._reference_vectors = embed(model, self.references, self.stats).vectors

    def encode(self, pool: Pool, claimed: str = "") -> EncodedPool:
        """Encode a pool; *claimed* is the family that all its images are presented as."""
        embedded = embed(self._model, pool, self.stats, claimed)
        samples = {claimed: range(len(pool.samples))} if claimed else {family: pool.of(family) for family in CATALOGUE}
        sets = reference_sets(self.references, self._reference_vectors, samples, embedded.vectors)
        return EncodedPool(pool, embedded.tokens, sets, embedded.scores)

    def write(self, encoded: EncodedPool, samples: Sequence[int], quote: Quote, claimed: str = "") -> list[str]:
        """Write the reports of samples, with the cases that *quote* returns in the prompt."""
        examples = [self._example(encoded.pool.samples[number], quote(number), claimed) for number in samples]
        return self._model.generate(encoded.tokens, examples)

    def _example(self, sample: Sample, cases: list[QuotedCase], claimed: str) -> Example:
        prompt = report_prompt(*MODALITY[claimed or sample.family], cases, version=self._model.version)
        return Example(sample.rows, prompt, "")

    def pairs(self, encoded: EncodedPool, samples: Sequence[int], quote: Quote) -> list[Pair]:
        """Return reference reports and written reports of samples."""
        references = [grammar.write(case_of(encoded.pool.samples[number]), self.rng) for number in samples]
        return [Pair.of(a, b) for a, b in zip(references, self.write(encoded, samples, quote), strict=True)]


def no_cases(_: int) -> list[QuotedCase]:
    """Quote no cases."""
    return []
