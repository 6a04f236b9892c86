"""Train the vision tower to classify each patch and each image token, before the language model."""

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

    Images = npt.NDArray[np.uint8]

#: Weight of positive targets: any one finding is rare in a patch.
POSITIVE_WEIGHT = 10.0
#: Weights of the losses by position and by family, relative to that of the image.
POSITION_WEIGHT, FAMILY_WEIGHT = 4.0, 0.2
#: Initial bias of the heads, for rare findings: from a probability of one half they need a hundred steps more.
INITIAL_LOGIT = -4.0
#: Images whose patches the first layer is initialised from.
INITIAL_IMAGES = 2_000
#: Rank of the principal component whose variance is added before whitening: weaker ones are noise.
NOISE_RANK = 30


@dataclass(frozen=True, slots=True)
class VisionSamples:
    """Training samples of the vision tower.

    `images` uint8 [n, 128, 128, 3]; `patches` bool [n, 64, kinds], positions of findings; `labels` bool [n, labels],
    findings with side and zone; `kinds` int64 [labels], the kind of each label; `family` int64 [n], the type of image;
    `weight` float64 [n], the sampling weight.
    """

    images: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.int64]
    family: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]

    def tokens(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return the labels in each image token of *rows*: [n, tokens, labels]; a token covers two by two patches."""
        half = int(PATCHES**0.5) // 2
        square = self.patches[rows].reshape(len(rows), half, 2, half, 2, -1).any(axis=(2, 4))
        shown: npt.NDArray[np.bool_] = square.reshape(len(rows), half * half, -1)[:, :, self.kinds]
        return shown & self.labels[rows][:, None]


class Heads(nn.Module):
    """Classifiers of patches, image tokens and images; discarded after training."""

    def __init__(self, kinds: int, labels: int, families: int) -> None:
        super().__init__()
        self.patch = nn.Linear(WIDTH, kinds)
        self.token = nn.Linear(WIDTH, labels)
        self.family = nn.Linear(WIDTH, families)
        for head in (self.patch, self.token):
            nn.init.constant_(head.bias, INITIAL_LOGIT)


def train_vision(
    model: Any, samples: VisionSamples, *, steps: int, batch: int, seed: int, on_step: Callable[[int, float], None]
) -> Heads:
    """Train tower and projector for *steps* batches; *on_step* is called with each step and its loss."""
    rng = np.random.default_rng(seed)
    probability = samples.weight / samples.weight.sum()
    initialise_patch_embedding(model, samples.images[rng.choice(len(samples.images), INITIAL_IMAGES, p=probability)])
    heads = Heads(samples.patches.shape[2], samples.labels.shape[1], int(samples.family.max()) + 1)
    hidden = [model.model.vision_tower, model.model.multi_modal_projector]
    schedule = Schedule(hidden, [heads], steps=steps)
    for step in range(steps):
        rows = rng.choice(len(samples.images), batch, p=probability)
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(model, heads, samples, rows)
        schedule.step(loss)
        on_step(step, loss.item())
    return heads


@torch.inference_mode()
def label_f1(model: Any, heads: Heads, fresh: VisionSamples) -> float:
    """Return the F1 of the labels read from the image tokens of images not used in training."""
    hits = predicted = actual = 0
    for start in range(0, len(fresh.images), 64):
        rows = np.arange(start, min(start + 64, len(fresh.images)))
        logits = heads.token(encode(model, pixel_values(fresh.images[rows]))[1]).logsumexp(dim=1)
        output, target = (logits > 0).numpy(), fresh.tokens(rows).any(axis=1)
        hits, predicted, actual = hits + (output & target).sum(), predicted + output.sum(), actual + target.sum()
    return float(2 * hits / max(predicted + actual, 1))


def initialise_patch_embedding(model: Any, images: Images) -> None:
    """Initialise the first layer with the whitened principal components of patches.

    Brightness and its gradient have ten thousand times the variance of a nodule's contrast; a layer with random weights
    represents little else for a long time.
    """
    layer = model.model.vision_tower.embeddings.patch_embeddings.projection
    size = layer.weight.shape[-1]
    patches = pixel_values(images).unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5)
    flat = patches.reshape(-1, layer.weight[0].numel()).double()
    mean = flat.mean(dim=0)
    variances, components = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    variances, components = variances.flip(0)[: len(layer.weight)], components.flip(1)[:, : len(layer.weight)]
    weight = (components / torch.sqrt(variances + variances[NOISE_RANK])).T
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        layer.bias.copy_(-weight @ mean)


def _loss(model: Any, heads: Heads, samples: VisionSamples, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    patches, tokens = encode(model, pixel_values(samples.images[rows]))
    by_token, target = heads.token(tokens).float(), torch.from_numpy(samples.tokens(rows)).float()
    by_position = _position_loss(heads.patch(patches).float(), torch.from_numpy(samples.patches[rows]).float())
    by_position = by_position + _position_loss(by_token, target)
    image = functional.binary_cross_entropy_with_logits(by_token.logsumexp(dim=1), target.amax(dim=1))
    family = functional.cross_entropy(heads.family(tokens.mean(dim=1)).float(), torch.from_numpy(samples.family[rows]))
    return POSITION_WEIGHT * by_position + image + FAMILY_WEIGHT * family


def _position_loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    weight = torch.tensor(POSITIVE_WEIGHT)
    return functional.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)


def pixel_values(images: Images) -> torch.Tensor:
    """Normalise images of the model's size as the image processor does: [n, 3, height, width]."""
    mean, deviation = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    scaled = (torch.from_numpy(np.ascontiguousarray(images)).float() / 255 - mean) / deviation
    return scaled.permute(0, 3, 1, 2).contiguous()


def encode(model: Any, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the last layer's patch tokens [n, patches, width] and the projected image tokens [n, tokens, width]."""
    patches = model.model.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
    return patches, model.model.multi_modal_projector(shuffled(model, patches))


def shuffled(model: Any, patches: torch.Tensor) -> torch.Tensor:
    """Fold two by two patch tokens for the projector: [n, tokens, 4 * width]."""
    side = int(PATCHES**0.5)
    grid = patches.reshape(len(patches), side, side, -1)
    folded: torch.Tensor = model.model.pixel_shuffle(grid, scale_factor=0.5)
    return folded.reshape(len(patches), PATCHES // 4, -1)


@torch.inference_mode()
def tower_tokens(
    model: Any, images: Images, *, batch: int = 64
) -> Iterator[tuple[torch.Tensor, npt.NDArray[np.float32]]]:
    """Yield, for batches of images, the input of the projector (bfloat16) and the layers that retrieval reads."""
    for start in range(0, len(images), batch):
        with torch.autocast("cpu", torch.bfloat16):
            layers = patch_tokens(model.model.vision_tower, pixel_values(images[start : start + batch]))
        yield shuffled(model, layers[:, -1]).to(torch.bfloat16), layers.float().numpy()
