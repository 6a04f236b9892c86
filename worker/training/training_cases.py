"""Draw the samples of a training run: phantom cases, each with the images that a prompt may hold."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from db.container_limits import whole_processors
from worker.images.render.framing import without_border
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, Case, draw_case, places
from worker.phantoms.dicom_files import SLICES, TOP_LEVEL
from worker.phantoms.draw.negatives import draw_negative
from worker.phantoms.phantoms import TRAINING, Variation, draw

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

#: Pixels on a side of an image and of a patch.
SIZE, PATCH = 128, 16
#: Family of the images that show none of the others.
NEGATIVE = "negative"
#: The class of everything the tower learns no name for: distractors and rare findings.
UNLABELLED = "unlabelled"
KINDS = (*dict.fromkeys(kind.name for kinds in CATALOGUE.values() for kind in kinds), UNLABELLED)
#: Classes of a whole image: kinds with side and zone, as they are scored.
LABELS = (
    *dict.fromkeys(place for kinds in CATALOGUE.values() for kind in kinds for place in places(kind)),
    (UNLABELLED, "", ""),
)
KIND_OF_LABEL = np.array([KINDS.index(name) for name, _, _ in LABELS])
RARE = tuple(kind.name for kind in CHEST_RARE)
FAMILIES = (*CATALOGUE, NEGATIVE)
#: Modality and body part of each family, for the prompt.
MODALITY = {
    "chest": ("DX", "CHEST"),
    "ct": ("CT", "HEAD"),
    "mr": ("MR", "HEAD"),
    "retina": ("OP", "EYE"),
    "skin": ("XC", "SKIN"),
    "endoscopy": ("ES", "COLON"),
    "pathology": ("SM", "COLON"),
}
#: Covered share from which a patch shows a finding.
MIN_COVERED = 0.04
#: Share of chests with each rare finding, and with a distractor.
RARE_SHARE, DISTRACTOR_SHARE = 0.005, 0.04
LATERAL_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Sample:
    """A case, None for a negative, and the rows of its images in the order of the prompt."""

    family: str
    case: Case | None
    rows: tuple[int, ...]
    #: Type of a negative; empty for a case.
    negative: str = ""

    @property
    def rare(self) -> bool:
        """True if the case has a rare finding."""
        return self.case is not None and bool(rare_findings(self.case))

    @property
    def unlabelled(self) -> bool:
        """True if the case has a finding that the image alone cannot name: a rare one or a distractor."""
        return self.rare or (self.case is not None and self.case.distractor)


def case_of(sample: Sample) -> Case:
    """Return the case of a sample; raises ValueError for a negative."""
    if sample.case is None:
        raise ValueError("invalid sample: a negative has no case")
    return sample.case


def rare_findings(case: Case) -> set[str]:
    """Return the names of the rare findings of a case."""
    return {finding.name for finding in case.findings} & set(RARE)


@dataclass(frozen=True, slots=True)
class Pool:
    """Samples and their images: `images` [n, 128, 128, 3], findings by patch [n, 64, kinds], `family` [n].

    `labels` [n, labels] are those of the case, visible in this image or not.
    """

    samples: list[Sample]
    images: npt.NDArray[np.uint8]
    patches: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.bool_]
    family: npt.NDArray[np.int64]

    def of(self, family: str) -> list[int]:
        """Return the indices of the samples of a family."""
        return [number for number, sample in enumerate(self.samples) if sample.family == family]


@dataclass(frozen=True, slots=True)
class Share:
    """Number of cases of a family; shares of each rare finding and of distractors."""

    family: str
    count: int
    rare: float = 0.0
    distractor: float = 0.0
    #: True: volumes with one, four or eight images; False: as many as the worker selects by default.
    mixed: bool = True


def make_pool(shares: Sequence[Share], *, seed: int, variation: Variation = TRAINING) -> Pool:
    """Draw a pool on all processors; the same arguments give the same pool."""
    chunks = [chunk for number, share in enumerate(shares) for chunk in _chunks(share, (seed, number), variation)]
    with ProcessPoolExecutor(max_workers=whole_processors()) as processes:
        drawn = list(processes.map(_draw_chunk, chunks))
    samples, start = [], 0
    for chunk_samples, images, *_ in drawn:
        samples += [replace(one, rows=tuple(row + start for row in one.rows)) for one in chunk_samples]
        start += len(images)
    _, *arrays = zip(*drawn, strict=True)
    return Pool(samples, *(np.concatenate(parts) for parts in arrays))


#: Cases drawn by one call of a process.
CHUNK = 200
Chunk = tuple[Share, tuple[int, ...], Variation]
#: Pixels, and the findings in each patch.
DrawnImage = tuple["npt.NDArray[np.uint8]", "npt.NDArray[np.bool_]"]
Drawn = tuple[
    list[Sample],
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
    samples: list[Sample] = []
    images: list[npt.NDArray[np.uint8]] = []
    patches: list[npt.NDArray[np.bool_]] = []
    labels: list[npt.NDArray[np.bool_]] = []
    for _ in range(share.count):
        sample, drawn = _negative(rng) if share.family == NEGATIVE else _study(rng, share, variation)
        rows = tuple(range(len(images), len(images) + len(drawn)))
        samples.append(replace(sample, rows=rows))
        labels += [_labels(sample.case)] * len(drawn)
        for pixels, findings in drawn:
            images.append(pixels)
            patches.append(findings)
    family = np.full(len(images), FAMILIES.index(share.family), np.int64)
    return samples, np.stack(images), np.stack(patches), np.stack(labels), family


def _study(rng: np.random.Generator, share: Share, variation: Variation) -> tuple[Sample, list[DrawnImage]]:
    case = _case(rng, share)
    views = _views(rng, case, mixed=share.mixed)
    return Sample(share.family, case, ()), [_image(rng, view, variation) for view in views]


def _negative(rng: np.random.Generator) -> tuple[Sample, list[DrawnImage]]:
    name, pixels = draw_negative(rng)
    return Sample(NEGATIVE, None, (), name), [(pixels, _no_findings())]


def _labels(case: Case | None) -> npt.NDArray[np.bool_]:
    """Return the labels of a case; findings without a label count as unlabelled."""
    findings = {(finding.name, finding.side, finding.zone) for finding in case.findings} if case else set()
    unlabelled = case is not None and (case.distractor or bool(findings - set(LABELS)))
    return np.array([label in findings or (unlabelled and label[0] == UNLABELLED) for label in LABELS])


def _case(rng: np.random.Generator, share: Share) -> Case:
    chance = rng.random()
    if chance < share.rare * len(RARE):
        return draw_case(rng, share.family, rare=RARE[int(chance / share.rare)])
    return draw_case(rng, share.family, distractor=bool(chance > 1 - share.distractor))


def _views(rng: np.random.Generator, case: Case, *, mixed: bool) -> list[Case]:
    """Return a view for each image that the worker selects from such a study."""
    if case.image == "chest":
        return [case, replace(case, image="lateral")] if rng.random() < LATERAL_SHARE else [case]
    if case.image not in {"ct", "mr"}:
        return [case]
    budget = int(rng.choice([1, 4, 8], p=[0.4, 0.35, 0.25])) if mixed else 8
    return volume_views(case, budget, float(rng.uniform(-0.04, 0.04)))


def volume_views(case: Case, budget: int, offset: float = 0.0) -> list[Case]:
    """Return *budget* slices, evenly spaced in the volume, a quarter of a CT's in the bone window."""
    if budget == 1:
        return [case]
    bones = budget // 4 if case.image == "ct" else 0
    slices = [replace(case, level=level + offset) for level in _levels(budget - bones)]
    return slices + [replace(case, image="bone", level=level + offset) for level in _levels(bones)]


def _levels(count: int) -> list[float]:
    """Return the levels of *count* slices as the worker spaces them: without a tenth at both ends."""
    edge = 0.1 * (SLICES - 1)
    slices = np.linspace(edge, SLICES - 1 - edge, count) if count > 1 else [(SLICES - 1) / 2] * count
    return [float(-TOP_LEVEL + 2 * TOP_LEVEL * round(number) / (SLICES - 1)) for number in slices]


def _image(rng: np.random.Generator, view: Case, variation: Variation) -> DrawnImage:
    # One in six is drawn at twice the size and shrunk, like images from files.
    size = 256 if rng.random() < 1 / 6 else SIZE
    phantom = draw(view, size=size, variation=variation)
    pixels = phantom.rgb()
    # Cropped by the worker's rule; Pillow's box has x before y.
    cut = without_border(pixels)
    box = (cut[1], cut[0], cut[3], cut[2]) if cut else None
    if size != SIZE or box:
        image = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
        pixels = np.asarray(image)
    patches = _no_findings()
    for name, mask in phantom.masks.items():
        patches[:, KINDS.index(name if name in KINDS else UNLABELLED)] |= _covered(mask, box)
    return pixels, patches


def _covered(mask: npt.NDArray[np.floating], box: tuple[int, int, int, int] | None) -> npt.NDArray[np.bool_]:
    side = SIZE // PATCH
    shrunk = Image.fromarray(mask.astype(np.float32)).resize((side, side), Image.Resampling.BOX, box=box)
    share = np.asarray(shrunk).ravel()
    covered: npt.NDArray[np.bool_] = (share > MIN_COVERED) | ((share == share.max()) & (share > MIN_COVERED / 8))
    return covered


def _no_findings() -> npt.NDArray[np.bool_]:
    return np.zeros(((SIZE // PATCH) ** 2, len(KINDS)), np.bool_)
