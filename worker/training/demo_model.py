"""The demo checkpoint's model: train it in two stages (vision tower, then language model), and generate with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from worker.model.checkpoint.manifest import read_manifest
from worker.prompting.wording import version_of
from worker.training import architecture, language, vision
from worker.training.language import Encoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from worker.prompting.wording import Version
    from worker.training.language import DrawExamples, Example
    from worker.training.vision import VisionSamples

    #: Called with the step and its loss.
    OnStep = Callable[[int, float], None]

#: Input of the projector, from the vision tower: bfloat16 [images, tokens, width].
ImageTokens = torch.Tensor
#: Examples a step.
VISION_BATCH, LANGUAGE_BATCH = 32, 24


@dataclass(slots=True)
class DemoModel:
    """Model, tokenizer, prompt encoder and the version of the wording that it was trained for."""

    model: Any
    tokenizer: Any
    encoder: Encoder
    version: Version

    @classmethod
    def fresh(cls, texts: Iterable[str], *, seed: int, version: Version) -> DemoModel:
        """Return a model with random weights and a vocabulary of the words in *texts*."""
        torch.manual_seed(seed)
        tokenizer = architecture.build_tokenizer(texts)
        model = architecture.build_model(tokenizer)
        # With so few tokens eager attention trains on 136 images a second, the fused one on 95.
        model.set_attn_implementation("eager")
        return cls(model, tokenizer, Encoder(tokenizer), version)

    @classmethod
    def continued(cls, start: Path, texts: Iterable[str], *, seed: int, version: Version) -> DemoModel:
        """Return a model with the weights of the checkpoint *start*; words that it has not have random ones."""
        model = cls.fresh(texts, seed=seed, version=version)
        architecture.copy_weights(architecture.load(start), (model.model, model.tokenizer))
        return model

    def untrained(self, *, seed: int) -> DemoModel:
        """Return a model of the same architecture and vocabulary with random weights."""
        torch.manual_seed(seed)
        return replace(self, model=architecture.build_model(self.tokenizer))

    @classmethod
    def load(cls, directory: Path) -> DemoModel:
        """Load a saved checkpoint in float32."""
        model, tokenizer = architecture.load(directory)
        return cls(model, tokenizer, Encoder(tokenizer), version_of(read_manifest(directory).prompt_version))

    def train_vision(
        self, samples: VisionSamples, fresh: VisionSamples, *, steps: int, seed: int, on_step: OnStep
    ) -> float:
        """Train tower and projector on *samples*; returns the F1 of the labels read from *fresh* images."""
        heads = vision.train_vision(self.model, samples, steps=steps, batch=VISION_BATCH, seed=seed, on_step=on_step)
        return vision.label_f1(self.model, heads, fresh)

    def tokens(self, images: npt.NDArray[np.uint8]) -> Iterator[tuple[ImageTokens, npt.NDArray[np.float32]]]:
        """Yield, batch by batch, the input of the projector and the patch tokens for worker.retrieval.features."""
        return vision.tower_tokens(self.model, images)

    def train_language(
        self, cached: ImageTokens, draw: DrawExamples, *, steps: int, rate: float = 1.0, on_step: OnStep
    ) -> None:
        """Train projector and language model on *cached* tower tokens; *rate* is a factor of the learning rates."""
        language.train_language(
            self.model, cached, draw, self.encoder, steps=steps, batch=LANGUAGE_BATCH, rate=rate, on_step=on_step
        )

    def generate(self, cached: ImageTokens, examples: Sequence[Example]) -> list[str]:
        """Generate the answers greedily."""
        return language.generate(self.model.eval(), cached, examples, self.encoder, self.tokenizer)

    def save_weights(self, path: Path) -> None:
        """Write the weights in float32, to continue training from."""
        torch.save(self.model.state_dict(), path)

    def load_weights(self, path: Path) -> None:
        """Read the weights that `save_weights` wrote."""
        self.model.load_state_dict(torch.load(path, weights_only=True))

    def save(self, directory: Path) -> None:
        """Write a stock checkpoint in bfloat16; converts the model to bfloat16."""
        architecture.save(self.model, self.tokenizer, directory)
