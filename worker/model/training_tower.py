"""Teach the vision tower to see: every patch is asked what it shows, before any language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from worker.model.chat import IMAGENET_MEAN, IMAGENET_STD
from worker.model.pooling import patch_tokens
from worker.model.training_model import PATCHES, WIDTH
from worker.model.training_schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Picture = npt.NDArray[np.uint8]

#: A patch shows any one finding rarely: what it does show counts so many times.
PATCH_WEIGHT = 4.0
FAMILY_WEIGHT = 0.2


@dataclass(frozen=True, slots=True)
class SeenSet:
    """What the tower learns from.

    `pictures` uint8 [n, 128, 128, 3]; `patches` bool [n, 64, kinds], where each finding is; `family` int64 [n], the
    kind of picture; `weight` float64 [n], how often each is shown.
    """

    pictures: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.bool_]
    family: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]


class Heads(nn.Module):
    """What is asked of the tower's patches and of the projected image tokens; thrown away after training."""

    def __init__(self, kinds: int, families: int) -> None:
        super().__init__()
        self.patch = nn.Linear(WIDTH, kinds)
        self.token = nn.Linear(WIDTH, kinds)
        self.family = nn.Linear(WIDTH, families)


def train_tower(
    model: Any, seen: SeenSet, *, steps: int, batch: int, seed: int, report: Callable[[int, float], None]
) -> None:
    """Train tower and projector for *steps* batches; *report* is told the step and its loss."""
    heads = Heads(seen.patches.shape[2], int(seen.family.max()) + 1)
    parameters = [
        *model.model.vision_tower.parameters(),
        *model.model.multi_modal_projector.parameters(),
        *heads.parameters(),
    ]
    schedule = Schedule(parameters, steps=steps, rate=1e-3)
    rng = np.random.default_rng(seed)
    probability = seen.weight / seen.weight.sum()
    for step in range(steps):
        rows = rng.choice(len(seen.pictures), batch, p=probability)
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, heads, seen, rows)
        schedule.step(loss)
        report(step, loss.item())


def _loss(model: Any, heads: Heads, seen: SeenSet, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    patches, tokens = see(model, pixel_values(seen.pictures[rows]))
    target = torch.from_numpy(seen.patches[rows]).float()
    weight = torch.tensor(PATCH_WEIGHT)
    patch_loss = functional.binary_cross_entropy_with_logits(heads.patch(patches).float(), target, pos_weight=weight)
    token_logits = heads.token(tokens).float().logsumexp(dim=1) - float(np.log(tokens.shape[1]))
    whole_loss = functional.binary_cross_entropy_with_logits(token_logits, target.amax(dim=1))
    family = functional.cross_entropy(heads.family(tokens.mean(dim=1)).float(), torch.from_numpy(seen.family[rows]))
    return 4 * patch_loss + whole_loss + FAMILY_WEIGHT * family


def pixel_values(pictures: Picture) -> torch.Tensor:
    """What the image processor makes of pictures that already have the model's size: [n, 3, height, width]."""
    mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    scaled = (torch.from_numpy(np.ascontiguousarray(pictures)).float() / 255 - mean) / deviation
    return scaled.permute(0, 3, 1, 2).contiguous()


def see(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Patch tokens [n, patches, width] of the tower's last layer, and the projected image tokens [n, tokens, width]."""
    patches = model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
    return patches, model.model.multi_modal_projector(shuffled(model, patches))


def shuffled(model: Any, patches: torch.Tensor) -> torch.Tensor:
    """Patch tokens as the projector takes them: [n, tokens, 4 * width]."""
    side = int(PATCHES**0.5)
    grid = patches.reshape(len(patches), side, side, -1)
    folded: torch.Tensor = model.model.pixel_shuffle(grid, scale_factor=0.5)
    return folded.reshape(len(patches), PATCHES // 4, -1)


@torch.inference_mode()
def tower_tokens(
    model: Any, pictures: Picture, *, batch: int = 64
) -> Iterator[tuple[torch.Tensor, npt.NDArray[np.float32]]]:
    """For batches of pictures: tokens for the projector (bfloat16), and the layers that pooling reads."""
    for start in range(0, len(pictures), batch):
        with torch.autocast("cpu", torch.bfloat16):
            layers = patch_tokens(model.model.vision_tower, pixel_values(pictures[start : start + batch]))
        yield shuffled(model, layers[:, -1]).to(torch.bfloat16), layers.float().numpy()
