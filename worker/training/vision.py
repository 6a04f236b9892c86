"""Teach the vision tower to see: every patch is asked what it shows, before any language."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from worker.model.chat import IMAGENET_MEAN, IMAGENET_STD
from worker.model.patch_tokens import patch_tokens
from worker.training.architecture import PATCHES, WIDTH
from worker.training.schedule import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    RenderedImage = npt.NDArray[np.uint8]

#: A patch shows any one finding rarely: what it does show counts so many times.
PRESENT_WEIGHT = 10.0
#: Of the losses by patch and by token; that of the whole image counts once.
PLACE_WEIGHT, FAMILY_WEIGHT = 4.0, 0.2
#: What heads say of anything at first: that it is not there. Unlearning one half takes a hundred steps.
FIRST_LOGIT = -4.0
#: Images whose patches the first layer is fitted on.
FITTED = 2_000
#: Components of patches weaker than the one of this rank are noise, and not made louder.
LOUDEST = 30


@dataclass(frozen=True, slots=True)
class SeenSet:
    """What the tower learns from.

    `images` uint8 [n, 128, 128, 3]; `patches` bool [n, 64, kinds], where each finding is; `labels` bool [n, labels],
    what an image shows, in more detail than kinds, and `kinds` int64 [labels] the kind of each label; `family` int64
    [n], the kind of image; `weight` float64 [n], how often each is shown.
    """

    images: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.int64]
    family: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]

    def tokens(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which labels each image token of *rows* shows: [n, tokens, labels]; a token is two by two patches."""
        half = int(PATCHES**0.5) // 2
        square = self.patches[rows].reshape(len(rows), half, 2, half, 2, -1).any(axis=(2, 4))
        shown: npt.NDArray[np.bool_] = square.reshape(len(rows), half * half, -1)[:, :, self.kinds]
        return shown & self.labels[rows][:, None]


class Heads(nn.Module):
    """What is asked of the tower's patches and of the projected image tokens; thrown away after training."""

    def __init__(self, kinds: int, labels: int, families: int) -> None:
        super().__init__()
        self.patch = nn.Linear(WIDTH, kinds)
        self.token = nn.Linear(WIDTH, labels)
        self.family = nn.Linear(WIDTH, families)
        for head in (self.patch, self.token):
            nn.init.constant_(head.bias, FIRST_LOGIT)


def train_tower(
    model: Any, seen: SeenSet, *, steps: int, batch: int, seed: int, report: Callable[[int, float], None]
) -> Heads:
    """Train tower and projector for *steps* batches; *report* is told the step and its loss."""
    rng = np.random.default_rng(seed)
    probability = seen.weight / seen.weight.sum()
    whiten(model, seen.images[rng.choice(len(seen.images), FITTED, p=probability)])
    heads = Heads(seen.patches.shape[2], seen.labels.shape[1], int(seen.family.max()) + 1)
    hidden = [model.model.vision_tower, model.model.multi_modal_projector]
    schedule = Schedule(hidden, [heads], steps=steps)
    for step in range(steps):
        rows = rng.choice(len(seen.images), batch, p=probability)
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, heads, seen, rows)
        schedule.step(loss)
        report(step, loss.item())
    return heads


@torch.inference_mode()
def seen_f1(model: Any, heads: Heads, fresh: SeenSet) -> float:
    """F1 over the labels of images never trained on: how much of what is there the image tokens say."""
    hit = told = there = 0
    for start in range(0, len(fresh.images), 64):
        rows = np.arange(start, min(start + 64, len(fresh.images)))
        logits = heads.token(see(model, pixel_values(fresh.images[rows]))[1]).logsumexp(dim=1)
        said, shown = (logits > 0).numpy(), fresh.tokens(rows).any(axis=1)
        hit, told, there = hit + (said & shown).sum(), told + said.sum(), there + shown.sum()
    return float(2 * hit / max(told + there, 1))


def whiten(model: Any, images: RenderedImage) -> None:
    """Start the first layer as the whitened principal components of patches.

    Brightness and its slope are ten thousand times the variance of what makes a nodule; a layer that starts with
    random weights sees little else for a long time.
    """
    layer = model.model.vision_tower.embeddings.patch_embeddings.projection
    size = layer.weight.shape[-1]
    patches = pixel_values(images).unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5)
    flat = patches.reshape(-1, layer.weight[0].numel()).double()
    mean = flat.mean(dim=0)
    variances, components = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    variances, components = variances.flip(0)[: len(layer.weight)], components.flip(1)[:, : len(layer.weight)]
    weight = (components / torch.sqrt(variances + variances[LOUDEST])).T
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        layer.bias.copy_(-weight @ mean)


def _loss(model: Any, heads: Heads, seen: SeenSet, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    patches, tokens = see(model, pixel_values(seen.images[rows]))
    by_token, shown = heads.token(tokens).float(), torch.from_numpy(seen.tokens(rows)).float()
    by_place = _where(heads.patch(patches).float(), torch.from_numpy(seen.patches[rows]).float())
    by_place = by_place + _where(by_token, shown)
    whole = functional.binary_cross_entropy_with_logits(by_token.logsumexp(dim=1), shown.amax(dim=1))
    family = functional.cross_entropy(heads.family(tokens.mean(dim=1)).float(), torch.from_numpy(seen.family[rows]))
    return PLACE_WEIGHT * by_place + whole + FAMILY_WEIGHT * family


def _where(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    weight = torch.tensor(PRESENT_WEIGHT)
    return functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)


def pixel_values(images: RenderedImage) -> torch.Tensor:
    """What the image processor makes of images that already have the model's size: [n, 3, height, width]."""
    mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    scaled = (torch.from_numpy(np.ascontiguousarray(images)).float() / 255 - mean) / deviation
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
    model: Any, images: RenderedImage, *, batch: int = 64
) -> Iterator[tuple[torch.Tensor, npt.NDArray[np.float32]]]:
    """For batches of images: tokens for the projector (bfloat16), and the layers that pooling reads."""
    for start in range(0, len(images), batch):
        with torch.autocast("cpu", torch.bfloat16):
            layers = patch_tokens(model.model.vision_tower, pixel_values(images[start : start + batch]))
        yield shuffled(model, layers[:, -1]).to(torch.bfloat16), layers.float().numpy()
