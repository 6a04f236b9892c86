"""Patch tokens of the vision tower -> a vector for the search, and how strange a picture is.

The mean of the tokens says what kind of picture it is and hides what is wrong with it. Here each token is first
compared with what is usual at its place: it is whitened with the mean and spread that a reference set shows there.
What sticks out is kept: the strangest tokens of a shallow layer, and the greatest deviations of the deeper ones. The
size of the deviations tells a picture of the kind from everything else.

Tokens are float arrays [pictures, layers, patches, channels], as `patch_tokens` takes them from an InternVL vision
tower; the first layer is the shallow one. A whole search: `fit` on the reference pictures of one kind, `embed` theirs
and the query's with it, inner product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[np.float32]

#: How sharply the mean of the shallow layer turns to its strangest patches.
TEMPERATURE = 0.5
#: Pictures that the spread over all places counts for at each single place: a small reference set knows few spreads.
PRIOR_PICTURES = 16
#: A picture stranger than this many times the usual z is none of the kind.
STRANGE = 2.0


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual at each place of one kind of picture: mean and spread [layers, patches, channels], and of z."""

    mean: Array
    spread: Array
    #: Median z of the reference pictures, each judged by the others' statistics as nearly as one pass allows.
    usual_z: float
    pictures: int

    def save(self, path: Path) -> None:
        """Write to an .npz file."""
        np.savez(path, mean=self.mean, spread=self.spread, usual_z=self.usual_z, pictures=self.pictures)

    @classmethod
    def load(cls, path: Path) -> Usual:
        """Read what `save` wrote; raises ConfigurationError where it cannot be read."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(stored["mean"], stored["spread"], float(stored["usual_z"]), int(stored["pictures"]))
        except (OSError, KeyError, ValueError) as error:
            raise ConfigurationError(f"{path.name} cannot be read: build the reference index again") from error


@torch.inference_mode()
def patch_tokens(tower: Any, pixels: torch.Tensor) -> torch.Tensor:
    """The tokens of pictures [n, 3, height, width]: [n, 3, patches, channels], in the tower's number format.

    The blocks are run one by one, because only three of up to forty-five outputs are to be kept.
    """
    wanted = layers_of(len(tower.encoder.layer))
    states, kept = tower.embeddings(pixels), []
    for number, block in enumerate(tower.encoder.layer, start=1):
        states = block(states)
        # Twice where a very shallow tower has one block for two depths; the first token is no patch.
        kept += [states[:, 1:]] * wanted.count(number)
    return torch.stack(kept, dim=1)


def fit(batches: Iterable[Array]) -> Usual:
    """What is usual in the pictures of *batches*, read once; raises ConfigurationError for fewer than two pictures."""
    count, mean, squares = 0, np.zeros(1, np.float64), np.zeros(1, np.float64)
    shallow = []
    for tokens in batches:
        for picture in tokens.astype(np.float64):
            count += 1
            delta = picture - mean
            mean = mean + delta / count
            squares = squares + delta * (picture - mean)
            shallow.append(picture[0].astype(np.float16))
    if count < 2:  # noqa: PLR2004 - a spread needs two
        raise ConfigurationError("a kind of picture needs two reference cases or more")
    variance = squares / count
    everywhere = variance.mean(axis=1, keepdims=True)
    variance = (variance * count + everywhere * PRIOR_PICTURES) / (count + PRIOR_PICTURES)
    spread = np.sqrt(variance) + 1e-6
    usual = Usual(mean.astype(np.float32), spread.astype(np.float32), 1.0, count)
    own = [_rms((picture.astype(np.float32) - usual.mean[0]) / usual.spread[0]) for picture in shallow]
    return Usual(usual.mean, usual.spread, float(np.median(own)) * np.sqrt(count / (count - 1)), count)


def embed(tokens: Array, usual: Usual) -> Array:
    """A vector of length 1 for each picture: float32 [pictures, layers * channels]."""
    white = _whiten(tokens, usual)
    norms = np.linalg.norm(white[:, 0], axis=-1) / np.sqrt(white.shape[-1])
    weights = np.exp((norms - norms.max(axis=1, keepdims=True)) / TEMPERATURE)
    weights /= weights.sum(axis=1, keepdims=True)
    parts = [_unit(np.einsum("np,npc->nc", weights, white[:, 0]))]
    for layer in range(1, white.shape[1]):
        strongest = np.abs(white[:, layer]).argmax(axis=1)
        parts.append(_unit(np.take_along_axis(white[:, layer], strongest[:, None], axis=1)[:, 0]))
    return _unit(np.concatenate(parts, axis=1)).astype(np.float32)


def z(tokens: Array, usual: Usual) -> Array:
    """How strange each picture is, in units of the usual: float32 [pictures]; above STRANGE it is none of the kind."""
    white = (tokens[:, 0].astype(np.float32) - usual.mean[0]) / usual.spread[0]
    strangeness: Array = np.sqrt((white**2).mean(axis=(1, 2))) / np.float32(usual.usual_z)
    return strangeness


def layers_of(depth: int) -> tuple[int, int, int]:
    """Which of a tower's *depth* blocks are read: after a quarter, three quarters and all of them."""
    return max(depth // 4, 1), max(3 * depth // 4, 1), depth


def _whiten(tokens: Array, usual: Usual) -> Array:
    white: Array = (tokens.astype(np.float32) - usual.mean) / usual.spread
    return white


def _unit(vectors: Array) -> Array:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Array = vectors / np.maximum(lengths, 1e-12)
    return unit


def _rms(values: Array) -> float:
    return float(np.sqrt((values**2).mean()))
