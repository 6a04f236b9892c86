"""The images of a training run: cases drawn once, each with the images of it that a prompt may hold."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from worker.images.render.framing import without_border
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, Case, draw_case, places
from worker.phantoms.dicom_files import SLICES, TOP_LEVEL
from worker.phantoms.draw.negatives import junk
from worker.phantoms.phantoms import TRAINING, Variation, draw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

SIZE = 128
PATCH = 16
JUNK = "junk"
#: The kinds the tower is taught, and one for everything that has no name in its lessons: odd objects, rare findings.
ODD = "odd"
KINDS = (*dict.fromkeys(kind.name for kinds in CATALOGUE.values() for kind in kinds), ODD)
#: What an image is asked for as a whole: kinds with side and zone, as they are judged.
LABELS = (
    *dict.fromkeys(place for kinds in CATALOGUE.values() for kind in kinds for place in places(kind)),
    (ODD, "", ""),
)
KIND_OF_LABEL = np.array([KINDS.index(name) for name, _, _ in LABELS])
RARE = tuple(kind.name for kind in CHEST_RARE)
FAMILIES = (*CATALOGUE, JUNK)
#: A patch shows a finding when so much of it is covered.
COVERED = 0.04
#: How often each rare finding, and an odd object, is seen in a chest of the training pool.
RARE_SHARE, ODD_SHARE = 0.005, 0.04
LATERAL_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Item:
    """A case of the pool, None for junk, and the rows of its images in the order a prompt holds them."""

    family: str
    case: Case | None
    rows: tuple[int, ...]
    #: Which kind of junk, empty for a case.
    junk: str = ""

    @property
    def rare(self) -> bool:
        """Whether a finding is one of the rare ones."""
        return self.case is not None and bool(rare_findings(self.case))

    @property
    def nameless(self) -> bool:
        """Whether it shows what the image alone tells no name for: something rare, or an odd object."""
        return self.rare or (self.case is not None and self.case.odd)


def case_of(item: Item) -> Case:
    """The case of an item that has one; raises ValueError for junk."""
    if item.case is None:
        raise ValueError("junk has no case")
    return item.case


def rare_findings(case: Case) -> set[str]:
    """The rare findings of a case, by name."""
    return {finding.name for finding in case.findings} & set(RARE)


@dataclass(frozen=True, slots=True)
class Pool:
    """Items, and of all their images: pixels [n, 128, 128, 3], findings by patch [n, 64, kinds], family [n].

    `labels` [n, labels] is what an image's case has, whether or not this image shows it.
    """

    items: list[Item]
    images: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.bool_]
    family: npt.NDArray[np.int64]

    def of(self, family: str) -> list[int]:
        """The items of a family, by number."""
        return [number for number, item in enumerate(self.items) if item.family == family]


@dataclass(frozen=True, slots=True)
class Share:
    """How many cases of a family, and how often each rare finding."""

    family: str
    count: int
    rare: float = 0.0
    odd: float = 0.0
    #: Volumes hold one, four or eight images; else always as many as the worker chooses by default.
    mixed: bool = True


def make_pool(shares: Sequence[Share], *, seed: int, variation: Variation = TRAINING) -> Pool:
    """Draw a pool on every processor; the same arguments give the same pool."""
    chunks = [chunk for number, share in enumerate(shares) for chunk in _chunks(share, (seed, number), variation)]
    with ProcessPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as processes:
        drawn = list(processes.map(_draw_chunk, chunks))
    items, start = [], 0
    for chunk_items, images, *_ in drawn:
        items += [replace(item, rows=tuple(row + start for row in item.rows)) for item in chunk_items]
        start += len(images)
    _, *arrays = zip(*drawn, strict=True)
    return Pool(items, *(np.concatenate(parts) for parts in arrays))


#: Cases drawn by one call of a process.
CHUNK = 200
Chunk = tuple[Share, tuple[int, ...], Variation]
#: Pixels, and which findings each patch shows.
RenderedImage = tuple["npt.NDArray[np.uint8]", "npt.NDArray[np.bool_]"]
Drawn = tuple[
    list[Item],
    "npt.NDArray[np.uint8]",
    "npt.NDArray[np.bool_]",
    "npt.NDArray[np.bool_]",
    "npt.NDArray[np.int64]",
]


def _chunks(share: Share, seed: tuple[int, ...], variation: Variation) -> Iterator[Chunk]:
    for number, start in enumerate(range(0, share.count, CHUNK)):
        yield replace(share, count=min(CHUNK, share.count - start)), (*seed, number), variation


def _draw_chunk(chunk: Chunk) -> Drawn:
    share, seed, variation = chunk
    rng = np.random.default_rng(seed)
    items: list[Item] = []
    images: list[npt.NDArray[np.uint8]] = []
    patches: list[npt.NDArray[np.bool_]] = []
    labels: list[npt.NDArray[np.bool_]] = []
    for _ in range(share.count):
        item, drawn = _junk(rng) if share.family == JUNK else _study(rng, share, variation)
        rows = tuple(range(len(images), len(images) + len(drawn)))
        items.append(replace(item, rows=rows))
        labels += [_labels(item.case)] * len(drawn)
        for pixels, where in drawn:
            images.append(pixels)
            patches.append(where)
    family = np.full(len(images), FAMILIES.index(share.family), np.int64)
    return items, np.stack(images), np.stack(patches), np.stack(labels), family


def _study(rng: np.random.Generator, share: Share, variation: Variation) -> tuple[Item, list[RenderedImage]]:
    case = _case(rng, share)
    views = _views(rng, case, mixed=share.mixed)
    return Item(share.family, case, ()), [_image(rng, view, variation) for view in views]


def _junk(rng: np.random.Generator) -> tuple[Item, list[RenderedImage]]:
    name, pixels = junk(rng)
    return Item(JUNK, None, (), name), [(pixels, _nowhere())]


def _labels(case: Case | None) -> npt.NDArray[np.bool_]:
    """What a case has; whatever has no name in the lessons is odd."""
    told = {(finding.name, finding.side, finding.zone) for finding in case.findings} if case else set()
    odd = case is not None and (case.odd or bool(told - set(LABELS)))
    return np.array([label in told or (odd and label[0] == ODD) for label in LABELS])


def _case(rng: np.random.Generator, share: Share) -> Case:
    chance = rng.random()
    if chance < share.rare * len(RARE):
        return draw_case(rng, share.family, rare=RARE[int(chance / share.rare)])
    return draw_case(rng, share.family, odd=bool(chance > 1 - share.odd))


def _views(rng: np.random.Generator, case: Case, *, mixed: bool) -> list[Case]:
    """The images that the worker chooses of such a study."""
    if case.image == "chest":
        return [case, replace(case, image="lateral")] if rng.random() < LATERAL_SHARE else [case]
    if case.image not in {"ct", "mr"}:
        return [case]
    budget = int(rng.choice([1, 4, 8], p=[0.4, 0.35, 0.25])) if mixed else 8
    return volume_views(case, budget, float(rng.uniform(-0.04, 0.04)))


def volume_views(case: Case, budget: int, offset: float = 0.0) -> list[Case]:
    """The slices a budget of images gives: spread over the volume, a quarter of a CT's in the bone window."""
    if budget == 1:
        return [case]
    bones = budget // 4 if case.image == "ct" else 0
    slices = [replace(case, level=level + offset) for level in _levels(budget - bones)]
    return slices + [replace(case, image="bone", level=level + offset) for level in _levels(bones)]


def _levels(count: int) -> list[float]:
    """Levels of *count* slices, spread as the worker spreads them: a tenth left out at both ends."""
    edge = 0.1 * (SLICES - 1)
    places = np.linspace(edge, SLICES - 1 - edge, count) if count > 1 else [(SLICES - 1) / 2] * count
    return [float(-TOP_LEVEL + 2 * TOP_LEVEL * round(place) / (SLICES - 1)) for place in places]


def _image(rng: np.random.Generator, view: Case, variation: Variation) -> RenderedImage:
    # One in six is drawn finer and shrunk, as images from files are.
    size = 256 if rng.random() < 1 / 6 else SIZE
    phantom = draw(view, size=size, variation=variation)
    pixels = phantom.rgb()
    # As the worker cuts it, the box from left to right first.
    cut = without_border(pixels)
    box = (cut[1], cut[0], cut[3], cut[2]) if cut else None
    if size != SIZE or box:
        image = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
        pixels = np.asarray(image)
    where = _nowhere()
    for name, mask in phantom.masks.items():
        where[:, KINDS.index(name if name in KINDS else ODD)] |= _covered(mask, box)
    return pixels, where


def _covered(mask: npt.NDArray[np.floating], box: tuple[int, int, int, int] | None) -> npt.NDArray[np.bool_]:
    side = SIZE // PATCH
    shrunk = Image.fromarray(mask.astype(np.float32)).resize((side, side), Image.Resampling.BOX, box=box)
    share = np.asarray(shrunk).ravel()
    seen: npt.NDArray[np.bool_] = (share > COVERED) | ((share == share.max()) & (share > COVERED / 8))
    return seen


def _nowhere() -> npt.NDArray[np.bool_]:
    return np.zeros(((SIZE // PATCH) ** 2, len(KINDS)), np.bool_)
