"""Model inputs of a question and its images, for each kind of checkpoint."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image

from db.errors import PermanentFailure, Reason

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    RenderedImage = npt.NDArray[np.uint8]


@dataclass(slots=True, eq=False)
class Prompt:
    """The model inputs of one request, kept on the CPU until they are needed.

    `input_ids` [tokens]; `pixel_values` [tiles, 3, height, width] float32 if images can be encoded before the prefill;
    `extra` holds the other inputs from the checkpoint's own processor; `options` are the tokens of answers to score.
    The runner fills in `features`, one [tokens, hidden] per tile, and `embeddings` [tokens, hidden].
    """

    input_ids: torch.Tensor
    pixel_values: torch.Tensor | None = None
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    options: list[list[int]] = field(default_factory=list)
    features: list[torch.Tensor] = field(default_factory=list)
    embeddings: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self.input_ids.shape[-1])

    @property
    def chunkable(self) -> bool:
        """True if it may be prefilled in chunks: the token embeddings are its only input."""
        return not self.extra

    @property
    def pending_tiles(self) -> int:
        """Number of tiles that are not encoded yet."""
        return 0 if self.pixel_values is None else len(self.pixel_values) - len(self.features)

    def next_tiles(self, count: int) -> torch.Tensor:
        """Return the first *count* pending tiles."""
        if self.pixel_values is None:
            raise ValueError("a prompt without images has no tiles")
        return self.pixel_values[len(self.features) : len(self.features) + count]


class PromptBuilder(Protocol):
    """Builds prompts; safe to call from any thread."""

    def build(self, question: str, images: Sequence[RenderedImage]) -> Prompt:
        """Build the prompt of one question; raises PermanentFailure if an image is not [height, width, 3] uint8."""

    def length(self, question: str, images: Sequence[RenderedImage]) -> int:
        """Return the number of tokens of the prompt that `build` would return."""

    def answer_ids(self, text: str) -> list[int]:
        """Return the tokens of *text* as an answer, without a stop token."""

    def image_inputs(self, image: RenderedImage) -> dict[str, torch.Tensor]:
        """Return the arguments of the model's `get_image_features` for *image*, among them `pixel_values`."""


class InternVLPromptBuilder:
    """Prompt builder for InternVL layouts, including MedDr's.

    Replaces transformers' InternVLProcessor, which cuts images into tiles by default and needs torchvision for
    videos. Tiling follows the checkpoint's preprocessor_config.json.
    """

    def __init__(self, tokenizer: Any, image_processor: Any, *, image_token_id: int, tokens_per_tile: int) -> None:
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._image_token = tokenizer.convert_ids_to_tokens(image_token_id)
        if self._image_token is None:
            raise ValueError(f"the tokenizer has no token with the image_token_id of config.json, {image_token_id}")
        self._tokens_per_tile = tokens_per_tile
        self._cuts_tiles = bool(getattr(image_processor, "crop_to_patches", False))

    def build(self, question: str, images: Sequence[RenderedImage]) -> Prompt:
        """See PromptBuilder."""
        tiles = [self.image_inputs(image)["pixel_values"] for image in images]
        text = apply_chat_template(self._tokenizer, question, len(images))
        text = self._expand_image_tokens(text, [len(tile) for tile in tiles])
        ids = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        return Prompt(ids, torch.cat(tiles) if tiles else None)

    def length(self, question: str, images: Sequence[RenderedImage]) -> int:
        """See PromptBuilder. Without tiles to cut, no image is processed."""
        tiles = [len(self.image_inputs(image)["pixel_values"]) if self._cuts_tiles else 1 for image in images]
        text = self._expand_image_tokens(apply_chat_template(self._tokenizer, question, len(images)), tiles)
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def answer_ids(self, text: str) -> list[int]:
        """See PromptBuilder."""
        return _answer_ids(self._tokenizer, text)

    def image_inputs(self, image: RenderedImage) -> dict[str, torch.Tensor]:
        """See PromptBuilder; [tiles, 3, height, width] float32. The last of several tiles is the whole image."""
        pixels = self._image_processor(images=[to_pillow(image)], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels}

    def _expand_image_tokens(self, text: str, tiles: list[int]) -> str:
        """Replace each image's placeholder by `<img>`, its tokens, `</img>`."""
        head, *rest = text.split(self._image_token)
        if len(rest) != len(tiles):
            raise ValueError(f"the chat template has {len(rest)} {self._image_token!r} for {len(tiles)} images")
        start, end = self._tokenizer.start_image_token, self._tokenizer.end_image_token
        for count, part in zip(tiles, rest, strict=True):
            head += start + self._image_token * self._tokens_per_tile * count + end + part
        return head


class ProcessorPromptBuilder:
    """Prompt builder for all other architectures: the checkpoint's own processor and chat template."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def build(self, question: str, images: Sequence[RenderedImage]) -> Prompt:
        """See PromptBuilder."""
        text = apply_chat_template(self._processor, question, len(images), self._processor.tokenizer)
        batch = [[to_pillow(image) for image in images]] if images else None
        processed = self._processor(text=[text], images=batch, return_tensors="pt")
        # Some processors add training labels by default.
        inputs = {name: value for name, value in processed.items() if name != "labels"}
        return Prompt(inputs.pop("input_ids")[0], extra=inputs)

    def length(self, question: str, images: Sequence[RenderedImage]) -> int:
        """See PromptBuilder; the processor alone determines the tokens of an image."""
        return len(self.build(question, images))

    def answer_ids(self, text: str) -> list[int]:
        """See PromptBuilder."""
        return _answer_ids(self._processor, text, self._processor.tokenizer)

    def image_inputs(self, image: RenderedImage) -> dict[str, torch.Tensor]:
        """See PromptBuilder."""
        processed = self._processor.image_processor(images=[[to_pillow(image)]], return_tensors="pt")
        return {name: value for name, value in processed.items() if isinstance(value, torch.Tensor)}


def to_pillow(image: RenderedImage) -> Image.Image:
    """Convert to a Pillow image: processors guess the colour axis of an array, and mistake 3 rows for 3 colours.

    Raises PermanentFailure if *image* is not [height, width, 3] uint8.
    """
    if image.dtype != np.uint8 or image.ndim != len("hwc") or image.shape[2] != len("rgb") or not image.size:
        raise PermanentFailure(
            Reason.NOT_AN_IMAGE, f"invalid image {image.dtype} {image.shape}: expected uint8 (height, width, 3)"
        )
    return Image.fromarray(image)


def apply_chat_template(template: Any, question: str, images: int, tokenizer: Any = None) -> str:
    """Fill in the chat template of *template*, a tokenizer or processor: the images first, then the question."""
    words = strip_special_tokens(question, tokenizer or template)
    content = [{"type": "image"}] * images + [{"type": "text", "text": words}]
    text: str = template.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return text


def _answer_ids(template: Any, text: str, tokenizer: Any = None) -> list[int]:
    """Return the tokens of *text* behind a prompt: a tokenizer may give the first word another token on its own."""
    tokenizer = tokenizer or template
    before, answer = apply_chat_template(template, "", 0, tokenizer), strip_special_tokens(text.strip(), tokenizer)
    prefix, whole, alone = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, before + answer, answer)
    )
    # Where the answer's first characters share a token with the end of the prompt, no answer can begin with that token.
    ids: list[int] = whole[len(prefix) :] if whole[: len(prefix)] == prefix else alone
    return ids


def strip_special_tokens(question: str, tokenizer: Any) -> str:
    """Remove the tokenizer's special tokens, so that a quoted report cannot end the turn or stand for an image."""
    words = [token.content for token in tokenizer.added_tokens_decoder.values()]
    pattern = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))
    # Repeated: the removal of one may join the parts of another.
    while words and pattern.search(question):
        question = pattern.sub("", question)
    return question
