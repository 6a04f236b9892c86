"""Train a small checkpoint in two stages: first the tower learns to see, then the language model to speak.

What is learnt comes from the caller as arrays and as a source of examples; nothing here knows of phantoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from worker.training import architecture, language, vision
from worker.training.language import Encoder, Example, ExampleSource
from worker.training.vision import SeenSet, tower_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Report = Callable[[int, float], None]

__all__ = ["Example", "ExampleSource", "SeenSet", "Tokens", "Trainee"]

#: Examples a step.
TOWER_BATCH, LANGUAGE_BATCH = 32, 24


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the tower made of images, for the projector: bfloat16 [images, tokens, width]."""

    values: torch.Tensor

    @classmethod
    def of(cls, parts: Sequence[Tokens]) -> Tokens:
        """Join parts."""
        return cls(torch.cat([part.values for part in parts]))


@dataclass(slots=True)
class Trainee:
    """A model in the making."""

    model: Any
    tokenizer: Any
    encoder: Encoder

    @classmethod
    def fresh(cls, texts: Iterable[str], *, seed: int) -> Trainee:
        """With random weights and a vocabulary of the words in *texts*."""
        torch.manual_seed(seed)
        tokenizer = architecture.build_tokenizer(texts)
        model = architecture.build_model(tokenizer)
        # Of so few tokens the plain form of attention learns 136 images a second where the fused one learns 95.
        model.set_attn_implementation("eager")
        return cls(model, tokenizer, Encoder(tokenizer))

    @classmethod
    def load(cls, directory: Path) -> Trainee:
        """A checkpoint that was saved, as it is served but in float32."""
        model, tokenizer = architecture.load(directory)
        return cls(model, tokenizer, Encoder(tokenizer))

    def learn_to_see(self, seen: SeenSet, fresh: SeenSet, *, steps: int, seed: int, report: Report) -> float:
        """Train tower and projector on *seen*; returns the F1 of what they see in *fresh*."""
        heads = vision.train_tower(self.model, seen, steps=steps, batch=TOWER_BATCH, seed=seed, report=report)
        return vision.seen_f1(self.model, heads, fresh)

    def tokens(self, images: npt.NDArray[np.uint8]) -> Iterator[tuple[Tokens, npt.NDArray[np.float32]]]:
        """The tower's tokens, batch by batch: for `learn_to_speak`, and for worker.retrieval.features."""
        for tokens, layers in tower_tokens(self.model, images):
            yield Tokens(tokens), layers

    def learn_to_speak(self, cached: Tokens, source: ExampleSource, *, steps: int, report: Report) -> None:
        """Train projector and language model on *cached* tower tokens."""
        language.train_language(
            self.model, cached.values, source, self.encoder, steps=steps, batch=LANGUAGE_BATCH, report=report
        )

    def write(self, cached: Tokens, examples: Sequence[Example]) -> list[str]:
        """Answer greedily."""
        return language.write(self.model.eval(), cached.values, examples, self.encoder, self.tokenizer)

    def keep(self, path: Path) -> None:
        """Write the weights as they are, for `resume`."""
        torch.save(self.model.state_dict(), path)

    def resume(self, path: Path) -> None:
        """Take the weights that `keep` wrote."""
        self.model.load_state_dict(torch.load(path, weights_only=True))

    def save(self, directory: Path) -> None:
        """Write a stock checkpoint in bfloat16; the model is bfloat16 afterwards."""
        architecture.save(self.model, self.tokenizer, directory)
