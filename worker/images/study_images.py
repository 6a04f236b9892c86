"""Images of a study, by body part, and what was left out of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from db.errors import Reason
from worker.images.render import quality
from worker.images.select.unread import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

#: Reasons of objects that are named by their series.
_NAMED = frozenset({Reason.BETTER_IMAGES, Reason.FEW_IMAGES})


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """One input image of the model: *pixels* is uint8 [rows, columns, 3], *transform* the steps that produced them."""

    pixels: npt.NDArray[np.uint8]
    sop_instance_uid: str
    frame: int
    reason: str
    transform: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    #: Reason for which left and right may be reversed; empty if the header states the orientation.
    orientation_problem: str = ""
    #: Side and view that the header names: "L", "R" or "B", and View Position; empty if it names none.
    laterality: str = ""
    view: str = ""
    #: Digest of the frame as it is drawn alone: images with the same digest are duplicates.
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An object, or one frame of it (from 0), that was not used."""

    sop_instance_uid: str
    frame: int | None
    reason: Reason
    detail: str
    #: Series Instance UID, and name of a series in a sentence; empty if its header cannot be read.
    series: str = ""
    series_name: str = ""


@dataclass(frozen=True, slots=True)
class PartImages:
    """Images of one modality family and body part of a study, and the basis of their selection."""

    images: list[RenderedImage]
    #: "8 of 240 slices of series 3"
    basis: str
    modality: str
    #: CHEST, HEAD AND NECK ...; empty if unknown.
    body_part: str
    #: Number of its first image among those of the study, from 1.
    first: int = 1

    @property
    def name(self) -> str:
        """Heading of its section of the report: `CT HEAD`."""
        return f"{self.modality} {self.body_part}".rstrip()

    @property
    def informative(self) -> bool:
        """True if at least one image can show a finding."""
        return any(not quality.WITHOUT_INFORMATION & set(image.warnings) for image in self.images)


@dataclass(frozen=True, slots=True)
class StudyImages:
    """Images of a study by part, at least one, and what was left out."""

    parts: list[PartImages]
    left_out: list[LeftOut]
    #: Sentences about series: whose body part is doubtful, of which no image is shown.
    unread: list[str] = field(default_factory=list)

    @property
    def images(self) -> list[RenderedImage]:
        """Images of all parts, in order."""
        return [image for part in self.parts for image in part.images]

    @property
    def basis(self) -> str:
        """Basis of the report, with the name of each part if there are several."""
        several = len(self.parts) > 1
        return "; ".join((f"{part.name}: " if several else "") + part.basis for part in self.parts)

    @property
    def modality(self) -> str:
        """Modality of the first part."""
        return self.parts[0].modality

    @property
    def body_part(self) -> str:
        """Body part of the first part."""
        return self.parts[0].body_part

    def limitations(self) -> list[str]:
        """Sentences about the images left out, one for each cause, with the series that are lost by it."""
        causes: dict[str, list[LeftOut]] = {}
        for left in self.left_out:
            if left.reason not in _NAMED:
                causes.setdefault(left.detail, []).append(left)
        return self.unread + [_unused(cause, lost) for cause, lost in causes.items()]


def _unused(cause: str, lost: Sequence[LeftOut]) -> str:
    names = list(dict.fromkeys(left.series_name for left in lost if left.series_name))
    count = f"{len(lost)} images were" if len(lost) > 1 else "1 image was"
    return f"{count} not used: {cause}{f' ({listed(names)})' if names else ''}."
