"""Read the patch tokens of a vision tower, at three of its depths."""

from __future__ import annotations

from typing import Any

import torch

#: Finest grid handed over, in patches on a side: worker.retrieval.features reads no finer one. A test compares them.
GRID = 8


@torch.inference_mode()
def patch_tokens(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The tokens of images [n, 3, height, width]: [n, 3, patches, channels], in the tower's number format.

    The blocks are run one by one, because only three of up to forty-five outputs are to be kept.
    """
    wanted = layers_of(len(tower.encoder.layer))
    states, kept = tower.embeddings(pixels), []
    for number, block in enumerate(tower.encoder.layer, start=1):
        states = block(states)
        # Twice where a very shallow tower has one block for two depths; the first token is no patch.
        kept += [states[:, 1:]] * wanted.count(number)
    return torch.stack(kept, dim=1)


def layers_of(depth: int) -> tuple[int, int, int]:
    """Which of a tower's *depth* blocks are read: after a quarter, three quarters and all of them."""
    return max(depth // 4, 1), max(3 * depth // 4, 1), depth
