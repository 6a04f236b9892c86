"""Draw the image of a case, with exposure and noise from its seed, and the masks of its findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from worker.images.select.ct_windows import BONE, BRAIN
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
    """Ranges of variation: shift in parts of the width, rotation in degrees, contrast as a factor, noise level."""

    shift: float = 0.08
    degrees: float = 4.0
    contrast: tuple[float, float] = (0.75, 1.2)
    noise: tuple[float, float] = (0.008, 0.045)


#: Ranges used to train the demo checkpoint.
TRAINING = Variation()
#: Wider ranges than in training, for evaluation.
WIDER = Variation(shift=0.10, degrees=5.0, contrast=(0.7, 0.7))
#: Small ranges, for the studies that the demo sends.
CAREFUL = Variation(shift=0.03, degrees=2.0, contrast=(0.9, 1.1), noise=(0.008, 0.02))


@dataclass(frozen=True, slots=True)
class Phantom:
    """An image [size, size] or [size, size, 3] float32 in 0..1, and the masks of its findings by name."""

    image: Plane
    masks: dict[str, Plane]

    def rgb(self) -> npt.NDArray[np.uint8]:
        """Return the image with 8 bits and three channels."""
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
#: Windows of CT images; in the wide one, for bone, findings are not visible and have no masks.
_WINDOWS = {"ct": BRAIN, "bone": BONE}
#: Grid of the noise in pixels on a side, for images of any size.
NOISE_SIZE = 128


def draw(case: Case, *, size: int = 128, variation: Variation = TRAINING) -> Phantom:
    """Draw *case*; the same case, size and variation give the same image."""
    if window := _WINDOWS.get(case.image):
        units, masks = hounsfield(case, size=size, variation=variation)
        # PS3.3 C.11.2.1.2.1
        windowed = (units - (window.center - 0.5)) / (window.width - 1) + 0.5
        return Phantom(np.clip(windowed, 0, 1).astype(np.float32), masks if window is BRAIN else {})
    image, masks = _DRAW[case.image](_canvas(case, size, variation), case)
    return Phantom(_expose(image, case, variation), masks)


def hounsfield(case: Case, *, size: int, variation: Variation) -> Drawing:
    """Return a CT slice in integer Hounsfield units, as stored, and the masks of its findings."""
    canvas = _canvas(case, size, variation)
    image, masks = head.axial(canvas, case)
    units = _expose(image, case, variation) * head.WHITE_HU + head.skull(canvas, case) * head.SKULL_HU
    return np.round(units), masks


def _canvas(case: Case, size: int, variation: Variation) -> Canvas:
    """Return the canvas of *case* in its pose."""
    rng = np.random.default_rng(case.seed)
    factor = 1.0 if case.image in {"chest", "lateral"} else 0.5
    return Canvas(size, Pose.random(rng, shift=variation.shift * factor, degrees=variation.degrees), rng)


def _expose(image: Plane, case: Case, variation: Variation) -> Plane:
    # Separate random streams: exposure is the same in all slices of a volume, noise is not.
    rng = np.random.default_rng((case.seed, 1))
    contrast = _between(rng, *variation.contrast)
    exposed = (np.clip(image, 0, 1.1) ** np.float32(_between(rng, 0.86, 1.16)) - 0.5) * contrast + 0.5
    level = rng.uniform(*variation.noise)
    grain = _grain(np.random.default_rng((case.seed, 2, round(case.level * 1000) + 1000)), image.shape) * level
    return np.clip(exposed + rng.uniform(-0.04, 0.04) + grain, 0, 1).astype(np.float32)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a factor, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _grain(rng: np.random.Generator, shape: tuple[int, ...]) -> Plane:
    """Return noise of the same grain at every size, so that a large image shrinks to a training image."""
    grain = rng.standard_normal((NOISE_SIZE, NOISE_SIZE)).astype(np.float32)
    if shape[0] != NOISE_SIZE:
        grain = np.asarray(Image.fromarray(grain).resize((shape[1], shape[0]), Image.Resampling.BICUBIC))
    return grain if len(shape) == 2 else grain[..., None]  # noqa: PLR2004 - grey or colour
