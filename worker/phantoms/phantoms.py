"""A case -> its image: drawn, exposed, blurred and noisy as its seed says, with the masks of its findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from worker.images.render.windows import BONE, BRAIN
from worker.phantoms.draw import chest, chest_findings, endoscopy, head, pathology, retina, skin
from worker.phantoms.draw.canvas import Canvas, Pose

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from worker.phantoms.cases import Case
    from worker.phantoms.draw.canvas import Plane

    Drawing = tuple[Plane, dict[str, Plane]]


@dataclass(frozen=True, slots=True)
class Variation:
    """How far images may differ: shift in parts of the width, rotation in degrees, contrast as a factor."""

    shift: float = 0.08
    degrees: float = 4.0
    contrast: tuple[float, float] = (0.75, 1.2)
    noise: tuple[float, float] = (0.008, 0.045)


#: What the demo checkpoint is trained on.
TRAINING = Variation()
#: Wider than in training: what it is also judged on.
WIDER = Variation(shift=0.10, degrees=5.0, contrast=(0.7, 0.7))
#: As a careful radiographer delivers them: what the demo sends.
CAREFUL = Variation(shift=0.03, degrees=2.0, contrast=(0.9, 1.1), noise=(0.008, 0.02))


@dataclass(frozen=True, slots=True)
class Phantom:
    """An image [size, size] or [size, size, 3] float32 in 0..1, and where its findings are, by name."""

    image: Plane
    masks: dict[str, Plane]

    def rgb(self) -> npt.NDArray[np.uint8]:
        """8 bits, three channels."""
        eight = (np.clip(self.image, 0, 1) * 255 + 0.5).astype(np.uint8)
        return eight if eight.ndim == 3 else np.repeat(eight[..., None], 3, axis=2)  # noqa: PLR2004 - colour


_DRAW: dict[str, Callable[[Canvas, Case], Drawing]] = {
    "chest": chest_findings.frontal,
    "lateral": chest.lateral,
    "mr": head.axial,
    "retina": retina.fundus,
    "skin": skin.photograph,
    "endoscopy": endoscopy.still,
    "pathology": pathology.section,
}
#: What a CT's slice is seen through; findings are lost in the wide window of bone.
_WINDOWS = {"ct": BRAIN, "bone": BONE}
#: How many times finer a phantom is drawn than it is noisy: noise is per pixel of this size whatever the file's size.
NOISE_SIZE = 128


def draw(case: Case, *, size: int = 128, variation: Variation = TRAINING) -> Phantom:
    """Draw *case*; the same case, size and variation give the same image."""
    if window := _WINDOWS.get(case.image):
        units, masks = hounsfield(case, size=size, variation=variation)
        # PS3.3 C.11.2.1.2.1
        seen = (units - (window.center - 0.5)) / (window.width - 1) + 0.5
        return Phantom(np.clip(seen, 0, 1).astype(np.float32), masks if window is BRAIN else {})
    image, masks = _DRAW[case.image](_canvas(case, size, variation), case)
    return Phantom(_expose(image, case, variation), masks)


def hounsfield(case: Case, *, size: int, variation: Variation) -> Drawing:
    """A CT's slice in whole Hounsfield units, as it is stored, and the masks of its findings."""
    canvas = _canvas(case, size, variation)
    image, masks = head.axial(canvas, case)
    units = _expose(image, case, variation) * head.WHITE_HU + head.skull(canvas, case) * head.SKULL_HU
    return np.round(units), masks


def _canvas(case: Case, size: int, variation: Variation) -> Canvas:
    """The grid *case* is drawn on, its pose applied."""
    rng = np.random.default_rng(case.seed)
    factor = 1.0 if case.image in {"chest", "lateral"} else 0.5
    return Canvas(size, Pose.random(rng, shift=variation.shift * factor, degrees=variation.degrees), rng)


def _expose(image: Plane, case: Case, variation: Variation) -> Plane:
    # Streams of their own: exposure is the same in all slices of a volume, noise is not.
    rng = np.random.default_rng((case.seed, 1))
    contrast = _between(rng, *variation.contrast)
    exposed = (np.clip(image, 0, 1.1) ** np.float32(_between(rng, 0.86, 1.16)) - 0.5) * contrast + 0.5
    level = rng.uniform(*variation.noise)
    grain = _grain(np.random.default_rng((case.seed, 2, round(case.level * 1000) + 1000)), image.shape) * level
    seen: Plane = np.clip(exposed + rng.uniform(-0.04, 0.04) + grain, 0, 1).astype(np.float32)
    return seen


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """A factor, even in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _grain(rng: np.random.Generator, shape: tuple[int, ...]) -> Plane:
    """Noise as coarse at every size, so that a large file shrinks to what the model was trained on."""
    grain = rng.standard_normal((NOISE_SIZE, NOISE_SIZE)).astype(np.float32)
    if shape[0] != NOISE_SIZE:
        grain = np.asarray(Image.fromarray(grain).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    return grain if len(shape) == 2 else grain[..., None]  # noqa: PLR2004 - grey or colour
