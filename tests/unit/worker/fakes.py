"""A model and an index with state, in place of the real ones."""

from __future__ import annotations

import re
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from db.errors import PermanentFailure, Reason
from worker.model.engine.request import FinishReason, Generation, OptionScore, Timings
from worker.retrieval.index import Neighbour
from worker.retrieval.out_of_distribution import OodResult

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from worker.model.engine.request import Request
    from worker.retrieval.label_regression import LabelScores

CASE = uuid.UUID(int=1)
#: Kinds of studies that the fake index is validated for, and their figures.
KINDS = ("DX CHEST", "DX", "CT HEAD", "CT CHEST", "CT", "MR HEAD", "MR")
VALIDATED = {"cases": 40, "reported": 60, "generated": 60, "right": 57, "f1": 0.95}
#: Tokens of an image for the fake model; a word is one token.
IMAGE_TOKENS = 100


@dataclass
class FakeModel:
    """Answers every request the same, at once, and keeps the requests."""

    text: str = "Findings: Clear lungs. Impression: Normal."
    finish_reason: FinishReason = "stop"
    digest: str = "d" * 64
    progress: int = 0
    prompt_version: str = "1"
    setup: dict[str, str] = field(default_factory=lambda: {"number_format": "float32", "quantization": "none"})
    context_tokens: int = 4096
    requests: list[Request] = field(default_factory=list)
    #: Log-probability of an option, by its text or by its text and a word of the prompt; -9 for any other.
    scores: dict[str | tuple[str, str], float] = field(default_factory=dict)

    def text_tokens(self, text: str) -> int:
        return len(text.split())

    def prompt_tokens(self, question: str, images: Sequence[Any]) -> int:
        return self.text_tokens(question) + IMAGE_TOKENS * len(images)

    def _generation(self) -> Generation:
        words = self.text.split()
        timings = Timings(0, 0, 0, 0, 0)
        return Generation(self.text, [*range(len(words))], self.finish_reason, 1, timings, [-0.5] * len(words))

    def patch_tokens(self, images: Sequence[Any]) -> Any:
        return np.ones((len(images), 3, 4, 2), dtype=np.float32)

    def token_ends(self, generation: Generation) -> list[int]:
        return [word.end() for word in re.finditer(r"\S+", generation.text)]

    def submit(self, request: Request) -> Future[Generation]:
        self.requests.append(request)
        future: Future[Generation] = Future()
        # As in the engine: options need room for their own tokens only.
        new = sum(map(self.text_tokens, request.scored)) or request.max_new_tokens
        if self.prompt_tokens(request.question, request.images) + new > self.context_tokens:
            future.set_exception(PermanentFailure(Reason.PROMPT_TOO_LONG, "as the engine refuses it"))
            return future
        future.set_result(self._scored(request) if request.scored else self._generation())
        return future

    def _scored(self, request: Request) -> Generation:
        options = [OptionScore(text, [0], [self._score(text, request.question)], 0.0) for text in request.scored]
        best = max(options, key=lambda option: option.total)
        timings = Timings(0, 0, 0, 0, 0)
        return Generation(best.text, best.token_ids, "stop", 1, timings, best.log_probs, options)

    def _score(self, text: str, prompt: str) -> float:
        of_prompt = [
            score
            for key, score in self.scores.items()
            if not isinstance(key, str) and key[1] in prompt and key[0] == text
        ]
        return of_prompt[0] if of_prompt else self.scores.get(text, -9.0)


def compared(*scores: float, **changes: Any) -> OodResult:
    """The comparison of images with 100 reference images; in distribution up to a score of 2."""
    values: dict[str, Any] = {"reference_images": 100, "can_reject": True, "threshold": 2.0, "min_similarity": -1}
    return OodResult(list(scores), **values | changes)


@dataclass
class FakeIndex:
    """Holds one case, similar to everything, and *others*; *ood* is its comparison of any images."""

    snapshot: str = "s1"
    ood: OodResult | None = field(default_factory=lambda: compared(1.0))
    others: list[Neighbour] = field(default_factory=list)
    labels: LabelScores | None = None
    figures: dict[str, Any] = field(default_factory=lambda: {"validation": dict.fromkeys(KINDS, VALIDATED)})
    #: Cases that show the images of the study.
    same: set[uuid.UUID] = field(default_factory=set)
    searches: list[dict[str, Any]] = field(default_factory=list)
    scored: list[dict[str, Any]] = field(default_factory=list)

    def compare(self, _tokens: Any, **_: Any) -> OodResult | None:
        return self.ood

    def label_scores(self, tokens: Any, **query: Any) -> LabelScores | None:
        self.scored.append(query)
        if self.labels is None:
            return None
        return self.labels._replace(shares=self.labels.shares[: len(tokens)])

    def search(self, tokens: Any, *, excluded: Collection[uuid.UUID] = (), **query: Any) -> list[Neighbour]:
        self.searches.append(query | {"images": len(tokens)})
        return [case for case in (Neighbour(CASE, 0.9), *self.others) if case.case_id not in excluded]

    def same_images(self, _images: Any, *, among: Collection[uuid.UUID], **_: Any) -> set[uuid.UUID]:
        return self.same & set(among)
