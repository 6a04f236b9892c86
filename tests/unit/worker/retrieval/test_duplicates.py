"""The same image is recognised after another export; images of other patients are not taken for it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageOps

from worker.phantoms.cases import draw_case
from worker.phantoms.phantoms import draw
from worker.retrieval import duplicates
from worker.retrieval.duplicates import MAX_COMPARED, digests_of, prints_of, shows_the_same, similarity

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Rgb = NDArray[np.uint8]

PATIENTS = 8


def picture(seed: int, kind: str = "chest") -> Rgb:
    return draw(draw_case(np.random.default_rng(seed), kind), size=256).rgb()


def cropped(image: Rgb, share: float) -> Rgb:
    border = round(len(image) * share)
    inner = Image.fromarray(image[border:-border, border:-border])
    return np.asarray(inner.resize(image.shape[1::-1], Image.Resampling.BILINEAR))


def framed(image: Rgb, share: float) -> Rgb:
    border = round(len(image) * share)
    large = Image.fromarray(np.pad(image, ((border, border), (border, border), (0, 0))))
    return np.asarray(large.resize(image.shape[1::-1], Image.Resampling.BILINEAR))


def rotated(image: Rgb, degrees: float) -> Rgb:
    return np.asarray(Image.fromarray(image).rotate(degrees, Image.Resampling.BILINEAR))


def with_grey_noise(image: Rgb) -> Rgb:
    noise = np.random.default_rng(1).integers(-1, 2, image.shape[:2])[..., None]
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def exposed(image: Rgb) -> Rgb:
    return (((image / 255) ** 0.8) * 255).astype(np.uint8)


EXPORTS: dict[str, Callable[[Rgb], Rgb]] = {
    "one grey level": with_grey_noise,
    "cropped": lambda image: cropped(image, 0.02),
    "cropped by a tenth": lambda image: cropped(image, 0.1),
    "framed": lambda image: framed(image, 0.1),
    "rotated": lambda image: rotated(image, 2),
    "rotated back": lambda image: rotated(image, -3),
    "mirrored": lambda image: image[:, ::-1],
    "turned": np.rot90,
    "upside down and inverted": lambda image: 255 - image[::-1],
    "exposure": exposed,
    "equalised histogram": lambda image: np.asarray(ImageOps.equalize(Image.fromarray(image))),
    "lost columns": lambda image: np.asarray(Image.fromarray(image[:, 5:]).resize(image.shape[1::-1])),
}


@pytest.mark.parametrize("export", EXPORTS)
@pytest.mark.parametrize("kind", ["chest", "ct", "retina"])
def test_another_export_of_an_image_is_the_same(kind: str, export: str) -> None:
    for seed in range(3):
        image = picture(seed, kind)

        assert shows_the_same(prints_of([image]), prints_of([picture(90, kind), EXPORTS[export](image)]))


@pytest.mark.parametrize("kind", ["chest", "retina"])
def test_images_of_other_patients_are_not_the_same(kind: str) -> None:
    prints = prints_of([picture(seed, kind) for seed in range(PATIENTS)])

    for one in range(PATIENTS):
        assert not shows_the_same(prints[one : one + 1], prints[:one])


def test_digests_are_equal_for_equal_pixels_only() -> None:
    image = picture(1)
    changed = image.copy()
    changed[0, 0, 0] ^= 1

    assert digests_of([image]) == digests_of([image.copy()])
    assert digests_of([image]) != digests_of([changed])
    assert digests_of([image]) != digests_of([image.reshape(128, 512, 3)])


def test_an_even_image_resembles_nothing() -> None:
    even = np.full((64, 64, 3), 7, np.uint8)

    assert digests_of([even]) == []
    assert similarity(prints_of([even])[0], prints_of([even])[0]) == -1


def test_almost_even_images_with_the_same_mark_are_not_the_same() -> None:
    marked = np.zeros((64, 64), np.uint8)
    marked[10:12, 10:14] = 20

    assert not shows_the_same(marked[None], marked[None] // 2)


def test_exported_volume_is_the_same_and_two_of_its_slices_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    case = draw_case(np.random.default_rng(5), "ct")
    slices = [draw(replace(case, level=level), size=128).rgb() for level in np.linspace(-0.5, 0.5, 8)]
    volume, again = prints_of(slices), prints_of([with_grey_noise(one) for one in slices])
    compared = []
    monkeypatch.setattr(duplicates, "similarity", lambda *pair: compared.append(pair) or similarity(*pair))

    assert shows_the_same(again, volume)
    assert len({one.tobytes() for one, _ in compared}) <= MAX_COMPARED
    assert not shows_the_same(again, prints_of([picture(seed, "ct") for seed in range(60, 64)]))
