"""Draw negatives: images that show no image type of the catalogue, as from broken files or wrong uploads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.phantoms.cases import draw_case
from worker.phantoms.draw.canvas import Canvas, Pose
from worker.phantoms.phantoms import draw

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Rgb = npt.NDArray[np.uint8]
    Painter = Callable[[np.random.Generator], Rgb]

SIZE = 128
_UPRIGHT = Pose()


def _constant(rng: np.random.Generator) -> Rgb:
    colour = rng.integers(0, 256, 3) if rng.integers(2) else np.full(3, rng.choice([0, 128, 255]))
    return np.broadcast_to(colour, (SIZE, SIZE, 3)).astype(np.uint8)


def _noise(rng: np.random.Generator) -> Rgb:
    if rng.integers(2):
        return rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return _grey(rng.normal(rng.uniform(60, 190), rng.uniform(10, 80), (SIZE, SIZE)))


def _clouds(rng: np.random.Generator) -> Rgb:
    return _grey(128 + 60 * Canvas(SIZE, _UPRIGHT, rng).clouds(int(rng.integers(3, 24))))


def _shapes(rng: np.random.Generator) -> Rgb:
    canvas = Canvas(SIZE, _UPRIGHT, rng)
    image = np.full((SIZE, SIZE), rng.uniform(0, 255))
    for _ in range(int(rng.integers(2, 9))):
        x, y = rng.uniform(-1, 1, 2)
        rx, ry = rng.uniform(0.1, 0.6, 2)
        mask = canvas.ellipse(x, y, rx, ry, float(rng.uniform(0, 180)))
        if rng.integers(2):
            mask = canvas.stroke(
                [(x, y), (float(rng.uniform(-1, 1)), float(rng.uniform(-1, 1)))], rng.uniform(0.02, 0.3)
            )
        image = image * (1 - mask) + mask * rng.uniform(0, 255)
    return _grey(image)


def _checkerboard(rng: np.random.Generator) -> Rgb:
    cell = int(rng.integers(3, 40))
    rows, columns = np.indices((SIZE, SIZE)) // cell
    low, high = rng.uniform(0, 100), rng.uniform(150, 255)
    return _grey(np.where((rows + columns) % 2, high, low))


def _gradient(rng: np.random.Generator) -> Rgb:
    canvas = Canvas(SIZE, _UPRIGHT, rng)
    angle = rng.uniform(0, 2 * np.pi)
    ramp = canvas.x * np.cos(angle) + canvas.y * np.sin(angle)
    return _grey(128 + rng.uniform(40, 120) * (ramp if rng.integers(2) else np.hypot(canvas.x, canvas.y) * 2 - 1))


def _text(rng: np.random.Generator) -> Rgb:
    image = np.full((SIZE, SIZE), 20.0 if rng.integers(2) else 235.0)
    line = int(rng.integers(5, 12))
    for top in range(4, SIZE - line, line + 3):
        columns = int(rng.integers(20, SIZE - 8))
        image[top : top + line - 2, 4 : 4 + columns] = rng.choice([20, 235], (line - 2, columns))
    return _grey(image)


def _upside_down(image: str) -> Painter:
    def paint(rng: np.random.Generator) -> Rgb:
        return np.ascontiguousarray(draw(draw_case(rng, image)).rgb()[::-1])

    return paint


def _inverted(rng: np.random.Generator) -> Rgb:
    return 255 - _chest(rng)


def _shuffled(rng: np.random.Generator) -> Rgb:
    blocks = _chest(rng).reshape(8, 16, 8, 16, 3).transpose(0, 2, 1, 3, 4).reshape(64, 16, 16, 3)
    return blocks[rng.permutation(64)].reshape(8, 8, 16, 16, 3).transpose(0, 2, 1, 3, 4).reshape(SIZE, SIZE, 3)


def _stripes(rng: np.random.Generator) -> Rgb:
    canvas = Canvas(SIZE, _UPRIGHT, rng)
    angle = rng.uniform(0, np.pi)
    wave = np.sin((canvas.x * np.cos(angle) + canvas.y * np.sin(angle)) * rng.uniform(8, 60))
    return _grey(128 + rng.uniform(30, 120) * wave)


def _chest(rng: np.random.Generator) -> Rgb:
    return draw(draw_case(rng, "chest")).rgb()


def _grey(image: npt.NDArray[np.floating]) -> Rgb:
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


#: Image types with a head and a foot end, and their names upside down.
UPSIDE_DOWN = {"chest": "chest upside down", "ct": "CT upside down", "mr": "MR upside down"}
#: Types that the checkpoint is trained to answer with "not diagnostic".
TRAINED: dict[str, Painter] = {
    "constant": _constant,
    "noise": _noise,
    "clouds": _clouds,
    "shapes": _shapes,
    "checkerboard": _checkerboard,
    "gradient": _gradient,
    "text": _text,
    **{name: _upside_down(image) for image, name in UPSIDE_DOWN.items()},
    "inverted": _inverted,
}
#: Types not used in training, to evaluate with.
HELD_OUT: dict[str, Painter] = {"shuffled": _shuffled, "stripes": _stripes}


def draw_negative(rng: np.random.Generator) -> tuple[str, Rgb]:
    """Draw a negative of a random trained type; returns the type and the image."""
    name = str(rng.choice(list(TRAINED)))
    return name, TRAINED[name](rng)
