"""A question and its images -> what the model's forward takes, for each way a checkpoint wants its prompt."""

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
    """One request in the model's own terms, on the CPU until it is its turn.

    `input_ids` [tokens]; `pixel_values` [tiles, 3, height, width] float32 where the vision tower can run ahead of the
    prompt; `extra` holds whatever else the checkpoint's own processor made. `features` [tiles, tokens, hidden] and
    `embeddings` [tokens, hidden] are filled in by the runner.
    """

    input_ids: torch.Tensor
    pixel_values: torch.Tensor | None = None
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    features: list[torch.Tensor] = field(default_factory=list)
    embeddings: torch.Tensor | None = None

    def __len__(self) -> int:
        return int(self.input_ids.shape[-1])

    @property
    def divisible(self) -> bool:
        """Whether it may be prefilled in pieces: only where nothing but the tokens' embeddings goes in."""
        return not self.extra

    @property
    def unseen(self) -> int:
        """Tiles the vision tower has yet to look at."""
        return 0 if self.pixel_values is None else len(self.pixel_values) - len(self.features)

    def next_tiles(self, count: int) -> torch.Tensor:
        """The first *count* of the unseen tiles."""
        if self.pixel_values is None:
            raise ValueError("a prompt without images has no tiles")
        return self.pixel_values[len(self.features) : len(self.features) + count]


class PromptMaker(Protocol):
    """Turns words and images into a prompt; safe to call from any thread."""

    def __call__(self, question: str, images: Sequence[RenderedImage]) -> Prompt:
        """Make the prompt of one user's turn."""

    def seen(self, image: RenderedImage) -> dict[str, torch.Tensor]:
        """What the model's `get_image_features` takes of *image*, `pixel_values` and what belongs to them."""


class InternVLPrompts:
    """For InternVL layouts, MedDr's among them.

    Stands in for transformers' InternVLProcessor, which cuts images into tiles unasked and cannot be built without
    torchvision for its videos. Whether images are tiled is the checkpoint's preprocessor_config.json's to say.
    """

    def __init__(self, tokenizer: Any, image_processor: Any, *, image_token_id: int, tokens_per_tile: int) -> None:
        self._tokenizer = tokenizer
        self._image_processor = image_processor
        self._image_token = tokenizer.convert_ids_to_tokens(image_token_id)
        if self._image_token is None:
            raise ValueError(f"the tokenizer has no token {image_token_id}, config.json's image_token_id")
        self._tokens_per_tile = tokens_per_tile

    def __call__(self, question: str, images: Sequence[RenderedImage]) -> Prompt:
        """Make the prompt of one user's turn."""
        tiles = [self.seen(image)["pixel_values"] for image in images]
        text = render(self._tokenizer, question, len(images))
        text = self._widen(text, [len(tile) for tile in tiles])
        ids = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"][0]
        return Prompt(ids, torch.cat(tiles) if tiles else None)

    def seen(self, image: RenderedImage) -> dict[str, torch.Tensor]:
        """See PromptMaker; [tiles, 3, height, width] float32. Where there are several, the last shows all of it."""
        pixels = self._image_processor(images=[image_of(image)], return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixels}

    def _widen(self, text: str, tiles: list[int]) -> str:
        """Replace each image's placeholder by `<img>`, its tokens, `</img>`."""
        head, *rest = text.split(self._image_token)
        if len(rest) != len(tiles):
            raise ValueError(f"the chat template shows {len(rest)} images as {self._image_token!r}, not {len(tiles)}")
        start, end = self._tokenizer.start_image_token, self._tokenizer.end_image_token
        for count, part in zip(tiles, rest, strict=True):
            head += start + self._image_token * self._tokens_per_tile * count + end + part
        return head


class ProcessorPrompts:
    """For every other architecture: the checkpoint's own processor and chat template decide."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __call__(self, question: str, images: Sequence[RenderedImage]) -> Prompt:
        """Make the prompt of one user's turn."""
        text = render(self._processor, question, len(images), self._processor.tokenizer)
        rows = [[image_of(image) for image in images]] if images else None
        made = self._processor(text=[text], images=rows, return_tensors="pt")
        # Some processors make training targets unasked.
        inputs = {name: value for name, value in made.items() if name != "labels"}
        return Prompt(inputs.pop("input_ids")[0], extra=inputs)

    def seen(self, image: RenderedImage) -> dict[str, torch.Tensor]:
        """See PromptMaker."""
        made = self._processor.image_processor(images=[[image_of(image)]], return_tensors="pt")
        return {name: value for name, value in made.items() if isinstance(value, torch.Tensor)}


def image_of(image: RenderedImage) -> Image.Image:
    """The image as Pillow's: of an array processors guess which axis is colour, and take 3 rows for 3 colours.

    Raises PermanentFailure where it is not [height, width, 3] uint8.
    """
    if image.dtype != np.uint8 or image.ndim != len("hwc") or image.shape[2] != len("rgb") or not image.size:
        raise PermanentFailure(
            Reason.NOT_AN_IMAGE, f"an image is {image.dtype} {image.shape}, not uint8 (height, width, 3)"
        )
    return Image.fromarray(image)


def render(template: Any, question: str, images: int, tokenizer: Any = None) -> str:
    """Fill in the chat template of *template* (a tokenizer or processor): images first, then the question."""
    content = [{"type": "image"}] * images + [{"type": "text", "text": harmless(question, tokenizer or template)}]
    text: str = template.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return text


def harmless(question: str, tokenizer: Any) -> str:
    """Drop the tokenizer's control words, so that a quoted report cannot end the turn or pose as an image."""
    words = [token.content for token in tokenizer.added_tokens_decoder.values()]
    pattern = re.compile("|".join(map(re.escape, sorted(words, key=len, reverse=True))))
    while words and pattern.search(question):
        question = pattern.sub("", question)
    return question
