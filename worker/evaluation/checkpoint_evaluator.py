"""A checkpoint before fresh phantoms: what it writes, with which cases beside it, and how strange it finds them.

By arrays, many at once: the same prompts, images and pooling as a worker's, without the DICOM files between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worker.evaluation.text_metrics import Pair
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE
from worker.prompting.report import QuotedCase, report_prompt
from worker.training.curriculum import MODALITY
from worker.training.reference_set import shelve
from worker.training.samples import Item, Pool, case_of, make_pool
from worker.training.train import embed_items, reference_shares, usual_of
from worker.training.training import Example, Tokens, Trainee

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from worker.retrieval.features import FeatureStats
    from worker.training.reference_set import Shelf

    #: The cases quoted for an item of a pool, by its number.
    Quote = Callable[[int], list[QuotedCase]]

#: Far from every seed of training.
SEED = 3_100_000


@dataclass(frozen=True, slots=True)
class Size:
    """How many cases of each kind."""

    chests: int = 400
    others: int = 80
    rare: int = 64
    junk: int = 40
    references: int = 3000


@dataclass(frozen=True, slots=True)
class Ready:
    """A pool that the tower has looked at."""

    pool: Pool
    tokens: Tokens
    shelves: dict[str, Shelf]
    z: npt.NDArray[np.float32]


class Ruler:
    """A checkpoint with a fresh reference set."""

    def __init__(self, trainee: Trainee, size: Size, seed: int = SEED) -> None:
        self.trainee, self.size, self.seed = trainee, size, seed
        self.rng = np.random.default_rng(seed)
        self.references = make_pool(reference_shares(size.references), seed=seed + 1)
        self.usual: dict[str, FeatureStats] = usual_of(trainee, self.references)
        self.reference_vectors, _, _ = embed_items(trainee, self.references, self.usual)

    def look(self, pool: Pool, claimed: str = "") -> Ready:
        """Embed a pool; *claimed* is the family its images are said to be of."""
        vectors, tokens, z = embed_items(self.trainee, pool, self.usual, claimed)
        own = {family: pool.of(family) for family in CATALOGUE}
        items = {claimed: range(len(pool.items))} if claimed else own
        shelves = shelve(self.references, self.reference_vectors, items, vectors)
        return Ready(pool, Tokens.of(tokens), shelves, z)

    def write(self, ready: Ready, items: Sequence[int], quote: Quote, claimed: str = "") -> list[str]:
        """Reports of items, with the cases that *quote* gives."""
        examples = [self._example(ready.pool.items[number], quote(number), claimed) for number in items]
        return self.trainee.write(ready.tokens, examples)

    @staticmethod
    def _example(item: Item, cases: list[QuotedCase], claimed: str) -> Example:
        return Example(item.rows, report_prompt(*MODALITY[claimed or item.family], cases), "")

    def pairs(self, ready: Ready, items: Sequence[int], quote: Quote) -> list[Pair]:
        """References and reports of items."""
        references = [grammar.write(case_of(ready.pool.items[number]), self.rng) for number in items]
        return [Pair.of(a, b) for a, b in zip(references, self.write(ready, items, quote), strict=True)]


def nobody(_: int) -> list[QuotedCase]:
    """No retrieved cases."""
    return []
