"""Perturbed views of reference images: the same patient, positioned and exposed differently.

An archive holds few of the positions, exposures and noise levels that its modalities produce. Views of its own images
add them to the statistics of the out-of-distribution detector, so that a poorly positioned or exposed image is not
counted as out of distribution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    #: uint8 [height, width, 3]
    Rgb = npt.NDArray[np.uint8]
    #: float32 [images, layers, patches, channels]
    Tokens = npt.NDArray[Any]

#: Largest shift in parts of the side, rotation in degrees, logarithm of the scale.
SHIFT, DEGREES, SCALE = 0.12, 7.0, 0.1
#: Logarithms of the lowest and highest contrast; of the gamma; largest change of brightness, 0 to 1.
CONTRAST, GAMMA, BRIGHTNESS = (np.log(0.6), np.log(1.4)), 0.2, 0.05
#: Highest standard deviation of the noise, and pixels on a side of its grain.
NOISE, GRAIN = 0.06, 128
#: Border around an image in parts of its side, filled with its edge: what a shift or a rotation moves in.
BORDER = 0.25
#: Images of a case that get a view, evenly spaced: neighbouring slices give no new positions.
MAX_VIEWS = 4


def views_of(images: Sequence[Rgb], seed: int) -> list[Rgb]:
    """Return one perturbed view of at most MAX_VIEWS images; the same arguments give the same views."""
    rng = np.random.default_rng(seed)
    chosen = np.unique(np.linspace(0, len(images) - 1, min(len(images), MAX_VIEWS)).astype(int))
    return [_exposed(_moved(images[number], rng), rng) for number in chosen]


def upside_down(images: Sequence[Rgb]) -> list[Rgb]:
    """Return the images with their rows in reverse order."""
    return [np.ascontiguousarray(image[::-1]) for image in images]


def _moved(image: Rgb, rng: np.random.Generator) -> Rgb:
    height, width = image.shape[:2]
    border = round(max(height, width) * BORDER)
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
    angle, zoom = np.deg2rad(rng.uniform(-DEGREES, DEGREES)), np.exp(rng.uniform(-SCALE, SCALE))
    x, y = width / 2 + rng.uniform(-SHIFT, SHIFT) * width, height / 2 + rng.uniform(-SHIFT, SHIFT) * height
    cosine, sine = np.cos(angle) / zoom, np.sin(angle) / zoom
    # From a point of the view to a point of the padded image, about the centre.
    across = (cosine, sine, border + width / 2 - cosine * x - sine * y)
    down = (-sine, cosine, border + height / 2 + sine * x - cosine * y)
    source = Image.fromarray(padded)
    moved = source.transform((width, height), Image.Transform.AFFINE, (*across, *down), Image.Resampling.BILINEAR)
    return np.asarray(moved)


def _exposed(image: Rgb, rng: np.random.Generator) -> Rgb:
    grey = (image.astype(np.float32) / 255) ** np.float32(np.exp(rng.uniform(-GAMMA, GAMMA)))
    exposed = (grey - 0.5) * np.exp(rng.uniform(*CONTRAST)) + 0.5 + rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    grain = Image.fromarray(rng.standard_normal((GRAIN, GRAIN)).astype(np.float32))
    noise = np.asarray(grain.resize((image.shape[1], image.shape[0])))[..., None] * rng.uniform(0, NOISE)
    eight: Rgb = (np.clip(exposed + noise, 0, 1) * 255 + 0.5).astype(np.uint8)
    return eight
