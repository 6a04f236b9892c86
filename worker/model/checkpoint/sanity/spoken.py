"""The spoken check: the log-probability that a loaded model gives to fixed medical sentences.

Digests show that a checkpoint is the one that was recorded; only its language shows that the numbers are put together
as in training. docs/model.md argues the bounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from worker.model.inputs import Prompt
    from worker.model.loading import Checkpoint

#: The sentences, and the words before them; both in MedDr's own form of a report.
QUESTION = "You are a helpful medical assistant. Your task is report generation."
SENTENCES = (
    "Findings: The heart is normal in size. There is a small left pleural effusion. No pneumothorax is seen. The right"
    " lung is clear. Impression: Small left pleural effusion."
)
#: The permutation takes every fifth of the 28 words, from the fourth on: 5 and 28 have no common divisor, so that each
#: word is taken once, and none stays in its place.
STEP, OFFSET = 5, 3
#: Deviation from the stored figure, in nats a token, that number formats may cause: less than 0.01 was measured for
#: float32, bfloat16 and float16. Quantized weights are not measured; their own rounding is larger.
TOLERANCE, QUANTIZED_TOLERANCE = 0.03, 0.5
#: Nats a token by which a model that was trained on English prefers the sentences to their permuted words.
MARGIN = 2.0


@dataclass(frozen=True, slots=True)
class Spoken:
    """Mean log-probability of a token, in nats, of the sentences in order and with their words permuted."""

    in_order: float
    permuted: float

    def values(self) -> dict[str, float]:
        """Return the figures as the manifest stores them."""
        return {"in_order": round(self.in_order, 4), "permuted": round(self.permuted, 4), "tolerance": TOLERANCE}


def permuted(sentences: str = SENTENCES) -> str:
    """Return the same words in a fixed other order."""
    words = sentences.split()
    return " ".join(words[(index * STEP + OFFSET) % len(words)] for index in range(len(words)))


def measure(checkpoint: Checkpoint) -> Spoken | None:
    """Return the figures of a loaded model; None for an architecture whose images depend on more than their pixels."""
    prompt = checkpoint.prompts.build(QUESTION, [_image()])
    if prompt.extra or prompt.pixel_values is None:
        return None
    return Spoken(*_scores(checkpoint, prompt, prompt.pixel_values, (SENTENCES, permuted())))


def check(spoken: Spoken | None, stored: Mapping[str, Any] | None, *, quantized: bool = False) -> None:
    """Raise ConfigurationError if *spoken* deviates from the *stored* figures of the manifest."""
    if stored is None or spoken is None:
        return
    allowed = max(float(stored["tolerance"]), QUANTIZED_TOLERANCE if quantized else 0.0)
    for name, found in spoken.values().items():
        if name != "tolerance" and not abs(found - float(stored[name])) <= allowed:
            raise ConfigurationError(
                f"the model gives its test sentences {found:.2f} nats a token where {float(stored[name]):.2f} were"
                " recorded: weights, tokenizer or positions are not computed as they were recorded"
            )


def doubt(spoken: Spoken | None) -> str | None:
    """Return the sentence on a model that does not prefer language to permuted words; None for one that does."""
    if spoken is None:
        return "no sentence can be scored for this architecture"
    if spoken.in_order - spoken.permuted >= MARGIN:
        return None
    return (
        f"the model gives medical sentences {spoken.in_order:.2f} nats a token and their permuted words"
        f" {spoken.permuted:.2f}: expected at least {MARGIN:g} more for the sentences"
    )


def _image() -> npt.NDArray[np.uint8]:
    """Return an image with edges and gradients in three colours, so that a change of preprocessing has an effect."""
    rows, columns = np.mgrid[0:160, 0:160]
    disc = (rows - 70) ** 2 + (columns - 90) ** 2 < 50**2
    channels = (rows + columns // 2, 200 * disc + columns // 4, 255 - rows)
    return np.asarray(np.clip(np.stack(channels, axis=-1), 0, 255), np.uint8)


def _scores(checkpoint: Checkpoint, prompt: Prompt, pixels: torch.Tensor, texts: Sequence[str]) -> list[float]:
    """Return the mean log-probability of each text after the prompt, in one batch; the padding follows the text."""
    model = checkpoint.model
    answers = [checkpoint.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    longest = max(map(len, answers))
    given = prompt.input_ids.tolist()
    ids = torch.tensor([given + answer + [0] * (longest - len(answer)) for answer in answers], device=model.device)
    mask = torch.tensor([[1] * (len(given) + len(a)) + [0] * (longest - len(a)) for a in answers], device=model.device)
    with torch.inference_mode():
        pixels = torch.cat([pixels] * len(texts)).to(model.device, model.dtype)
        logits = model(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits[:, len(given) - 1 : -1]
        found = logits.float().log_softmax(-1).gather(2, ids[:, len(given) :, None])[..., 0]
    return [float(row[: len(answer)].mean()) for row, answer in zip(found, answers, strict=True)]
