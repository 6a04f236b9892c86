"""Picture score of a finding: how strongly the image shows the label of the reference set, and where.

The score is linear in the image's tokens, so it is the sum of one share for each patch (worker.retrieval.features).
The reference reports define the label: cases whose reports are wrong in the same way give a wrong score.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from worker.grounding.checks.evidence import CRITICAL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import numpy.typing as npt

    from worker.findings.labeller import Label

#: Part of the positive shares inside a region.
REGION_MASS = 0.6
SIDES = ("left", "right")


class Box(NamedTuple):
    """Rectangle in parts of the image's width and height, from its upper left corner."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class PictureScore:
    """Score of a label in the image that shows it most; `image` is its number in the report, from 1."""

    finding: str
    side: str
    score: float
    threshold: float
    image: int
    #: Share of each patch in the score, row by row; they sum to it.
    shares: tuple[float, ...]
    #: Part of the threshold that a certificate added to that of the reference set.
    margin: float = 0.0

    @property
    def shown(self) -> bool:
        """True if the score reaches the threshold."""
        return self.score >= self.threshold

    @property
    def suspected(self) -> bool:
        """True if the score reaches the threshold of the reference set: no certificate makes a denial safer."""
        return self.score >= round(self.threshold - self.margin, 4)


@dataclass(frozen=True, slots=True)
class Picture:
    """Shares [images, patches, labels] and thresholds of the labels of the reference set, for one part of a study.

    `labels` are "finding side", the side empty for findings without one; `images` are the images' numbers in the
    report. Without labels nothing is measurable.
    """

    labels: Sequence[str] = ()
    #: nan for a label that is not measurable.
    thresholds: Sequence[float] = ()
    #: Infinite for a label that is never listed as omitted.
    omission_thresholds: Sequence[float] = ()
    shares: npt.NDArray[np.float32] | None = None
    images: Sequence[int] = ()
    #: What a certificate adds to the threshold of each label (worker.grounding.calibration); empty without one.
    margins: Sequence[float] = ()

    def score(self, finding: str, side: str) -> PictureScore | None:
        """Return the score of a finding; None, not measurable, if the reference set lacks its label.

        A finding without a side is scored by its label that exceeds its threshold most.
        """
        sides = (side,) if side else ("", *SIDES)
        scores = [score for each in sides if (score := self._of(finding, each))]
        return max(scores, key=lambda one: one.score - one.threshold, default=None)

    def omitted(self, labels: Collection[Label]) -> list[PictureScore]:
        """Return the labels that the image reliably shows and the text, which says *labels*, does not mention.

        No certificate takes a critical one off the list.
        """
        listed = [one for one in self._reliable() if one.shown or (one.suspected and one.finding in CRITICAL)]
        return [score for score in listed if not any(_mentions(one, score) for one in labels)]

    def _reliable(self) -> Iterator[PictureScore]:
        for label, least in zip(self.labels, self.omission_thresholds, strict=True):
            finding, _, side = label.rpartition(" ")
            score = self._of(finding, side)
            if score and score.score >= least:
                yield score

    def _of(self, finding: str, side: str) -> PictureScore | None:
        label = f"{finding} {side}"
        if self.shares is None or not len(self.shares) or label not in self.labels:
            return None
        column = list(self.labels).index(label)
        if math.isnan(self.thresholds[column]):
            return None
        of_image = self.shares[:, :, column]
        most = int(of_image.sum(axis=1).argmax())
        shares = tuple(round(float(share), 4) for share in of_image[most])
        margin = self.margins[column] if self.margins else 0.0
        score, threshold = round(math.fsum(shares), 4), round(float(self.thresholds[column]) + margin, 4)
        return PictureScore(finding, side, score, threshold, self.images[most], shares, margin)


def _mentions(label: Label, score: PictureScore) -> bool:
    return label.finding == score.finding and (not label.side or not score.side or label.side == score.side)


def region(shares: Sequence[float]) -> Box | None:
    """Return the smallest rectangle of patches that holds REGION_MASS of the positive shares.

    None if no share is positive or the patches form no square. Of equal areas the one with the larger mass.
    """
    side = math.isqrt(len(shares))
    positive = np.maximum(np.array(shares, np.float64), 0)
    if side**2 != len(shares) or not positive.any():
        return None
    mass = np.zeros((side + 1, side + 1))
    mass[1:, 1:] = positive.reshape(side, side).cumsum(axis=0).cumsum(axis=1)
    starts, ends = np.triu_indices(side)
    ends = ends + 1
    # Every pair of rows with every pair of columns: 1,296 rectangles of 8 x 8 patches.
    within = mass[ends][:, ends] - mass[starts][:, ends] - mass[ends][:, starts] + mass[starts][:, starts]
    heights, widths = (ends - starts)[:, None], (ends - starts)[None]
    enough = within >= REGION_MASS * positive.sum() - 1e-9
    # A mass is at most the total, so it only decides between equal areas.
    size = np.where(enough, heights * widths - within / (positive.sum() * 2), np.inf)
    rows, columns = np.unravel_index(int(size.argmin()), size.shape)
    unit = 1 / side
    return Box(
        float(starts[columns]) * unit,
        float(starts[rows]) * unit,
        float(ends[columns] - starts[columns]) * unit,
        float(ends[rows] - starts[rows]) * unit,
    )
