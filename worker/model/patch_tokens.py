"""Patch tokens of the vision tower, from which worker.retrieval computes its features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from worker.model.pixel_shuffle import INTERNVL

if TYPE_CHECKING:
    from worker.model.inputs import PromptBuilder, RenderedImage

#: Largest grid returned, in patches per side: worker.retrieval.features uses no finer one. A test compares them.
MAX_GRID = 8


@torch.inference_mode()
def image_patch_tokens(model: Any, builder: PromptBuilder, image: RenderedImage) -> torch.Tensor:
    """Patch tokens of one image [1, layers, patches, channels], on a grid of at most MAX_GRID patches per side.

    If the image is cut into tiles, the tile that shows all of it is used: a position must mean the same in every image.
    """
    if model.config.model_type in INTERNVL:
        return overview_tokens(model.model.vision_tower, builder, image)
    inputs = builder.image_inputs(image)
    # The final output is all that towers of other architectures have in common.
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    tiles: torch.Tensor = model.get_image_features(**inputs).last_hidden_state
    # The tile of the whole image is LLaVA's first (it has sizes beside the pixels) and Idefics' last.
    overview = tiles[:1] if "image_sizes" in inputs else tiles[-1:]
    return reduce_grid(overview[:, None])


@torch.inference_mode()
def overview_tokens(tower: Any, builder: PromptBuilder, image: RenderedImage) -> torch.Tensor:
    """Patch tokens of one image, as `image_patch_tokens`, from an InternVL tower."""
    pixels = builder.image_inputs(image)["pixel_values"][-1:].to(tower.device, tower.dtype)
    return reduce_grid(patch_tokens(tower, pixels))


@torch.inference_mode()
def patch_tokens(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """Patch tokens of images [n, 3, height, width]: [n, 3, patches, channels], in the tower's dtype.

    The blocks are run one by one, because only three of up to 45 outputs are kept.
    """
    wanted = layers_of(len(tower.encoder.layer))
    states, kept = tower.embeddings(pixels), []
    for number, block in enumerate(tower.encoder.layer, start=1):
        states = block(states)
        # Twice if a very shallow tower has one block for two depths; the first token is the class token, no patch.
        kept += [states[:, 1:]] * wanted.count(number)
    return torch.stack(kept, dim=1)


def layers_of(depth: int) -> tuple[int, int, int]:
    """Return the blocks to read from a tower of *depth*: after one quarter, three quarters and all of them."""
    return max(depth // 4, 1), max(3 * depth // 4, 1), depth


def reduce_grid(tokens: torch.Tensor) -> torch.Tensor:
    """Average neighbouring patches of [1, layers, patches, channels] to a grid of MAX_GRID patches per side."""
    side = math.isqrt(tokens.shape[2])
    if side <= MAX_GRID or side**2 != tokens.shape[2]:
        return tokens
    layers, patches, channels = tokens.shape[1:]
    grid = tokens.float().transpose(2, 3).reshape(layers, channels, side, patches // side)
    return torch.nn.functional.adaptive_avg_pool2d(grid, MAX_GRID).flatten(2).transpose(1, 2)[None]
