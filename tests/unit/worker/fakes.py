"""A model and an index with state, in place of the heavy ones."""

from __future__ import annotations

import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.retrieval.index import Neighbour
from worker.retrieval.out_of_distribution import OodResult

if TYPE_CHECKING:
    from collections.abc import Sequence

CASE = uuid.UUID(int=1)


@dataclass
class Answer:
    text: str
    finish_reason: str = "stop"


@dataclass
class FakeModel:
    """Answers every question the same, at once, and remembers what it was asked and shown."""

    text: str = "Findings: Clear lungs. Impression: Normal."
    finish_reason: str = "stop"
    digest: str = "d" * 64
    progress: int = 0
    questions: list[str] = field(default_factory=list)
    shown: list[tuple[int, ...]] = field(default_factory=list)

    def patch_tokens(self, images: Sequence[Any]) -> Any:
        return np.ones((len(images), 3, 4, 2), dtype=np.float32)

    def generate(self, question: str, images: Sequence[Any]) -> Future[Any]:
        self.questions.append(question)
        self.shown += [image.shape for image in images]
        future: Future[Any] = Future()
        future.set_result(Answer(self.text, self.finish_reason))
        return future


@dataclass
class FakeIndex:
    """Holds one case, similar to everything, and *others*; *ood* is its comparison of any images."""

    snapshot: str = "s1"
    ood: OodResult | None = field(
        default_factory=lambda: OodResult(
            scores=[1.0], reference_images=100, can_reject=True, threshold=2.0, min_similarity=-1
        )
    )
    others: list[Neighbour] = field(default_factory=list)
    searches: list[dict[str, Any]] = field(default_factory=list)

    def compare(self, _tokens: Any, **_: Any) -> OodResult | None:
        return self.ood

    def search(self, tokens: Any, **asked: Any) -> list[Neighbour]:
        self.searches.append(asked | {"images": len(tokens)})
        return [Neighbour(CASE, 0.9), *self.others]
