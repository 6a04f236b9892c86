"""Candidates for selection: objects that could be shown, ranked by their headers alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

from db.errors import Reason
from db.studies.modalities import family_of
from db.studies.sop_classes import is_reportable
from worker.images.decode.elements import FLOAT_PIXELS
from worker.images.decode.image_pixel import shape_of
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from worker.images.decode.header import Header
    from worker.images.render.windows import Window
    from worker.images.select.body_parts import Parts


class Tier(IntEnum):
    """Preference among the objects of a study, best first; a worse tier is used only if there is no better one."""

    PRIMARY = 0
    DERIVED = 1
    SECONDARY = 2
    LOCALIZER = 3


#: Name of each tier in a report.
NAMES = {
    Tier.PRIMARY: "primary images",
    Tier.DERIVED: "derived images",
    Tier.SECONDARY: "secondary captures or projections",
    Tier.LOCALIZER: "localizers",
}

#: Modalities whose derived images (reformats, mosaics) rank below the acquired slices.
_CROSS_SECTIONAL = frozenset({"CT", "MR", "PT"})
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."
_PROJECTIONS = frozenset({"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "SCREEN SAVE", "VOLREND", "CAPTURE"})
_OVERVIEWS = frozenset({"LOCALIZER", "OVERVIEW"})
_LOCALIZER = re.compile(r"\b(LOCALI[SZ]ER|LOC|SCOUT|TOPOGRAM|SURVIEW|SCANOGRAM|SURVEY)\b")
#: Frames of a localizer series. A description counts only if Image Type is inconclusive and the series is this short or
#: has several orientations: a bone survey is not a survey scan.
_MAX_LOCALIZER_FRAMES = 5
_EXPLICIT_TYPES = frozenset({"AXIAL", "VOLUME", "LOCALIZER"})
#: Primary images of a modality below which derived ones are used, if there are more of them.
_MIN_PRIMARY = 3
#: Modality of an image class that implies one, for objects without Modality.
_MODALITIES = {
    "1": "CR", "1.1": "DX", "1.1.1": "DX", "1.2": "MG", "1.2.1": "MG", "1.3": "IO", "1.3.1": "IO",
    "2": "CT", "2.1": "CT", "2.2": "CT", "3": "US", "3.1": "US", "4": "MR", "4.1": "MR", "4.3": "MR", "4.4": "MR",
    "5": "NM", "6": "US", "6.1": "US", "6.2": "US", "12.1": "XA", "12.1.1": "XA", "12.2": "RF", "12.2.1": "RF",
    "13.1.3": "MG", "20": "NM", "77.1.1": "ES", "77.1.2": "GM", "77.1.4": "XC", "77.1.5.1": "OP", "77.1.5.2": "OP",
    "77.1.5.4": "OPT", "77.1.6": "SM", "128": "PT", "128.1": "PT", "130": "PT",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """One object that could be shown, with the SOP Instance UID under which it is stored."""

    sop_instance_uid: str
    header: Header
    modality: str
    tier: Tier
    #: Body parts, from head to foot; set once the other objects of the study are known.
    parts: Parts = ()

    @property
    def family(self) -> str:
        """Family of modalities with which the object is selected."""
        return family_of(self.modality)

    @property
    def series(self) -> str:
        """Series Instance UID."""
        return self.header.text("SeriesInstanceUID")


@dataclass(frozen=True, slots=True)
class Selection:
    """One image to render: the frame, the reason and the options.

    *header* is the frame's own if frames differ; *window* replaces the header's; *assembled* renders all frames of a
    slide level as one image; *volume* is Image Orientation (Patient) of the slice's volume. Selections
    with the same *stack* are slices or frames to be compared, and are drawn alike.
    """

    sop_instance_uid: str
    header: Header
    frame: int
    reason: str
    window: Window | None = None
    assembled: bool = False
    volume: tuple[float, ...] = ()
    stack: str = ""


if TYPE_CHECKING:
    #: From the selections that became images to a sentence: how many of how many they are.
    Basis = Callable[[Sequence[Selection]], str]


def candidate(sop_instance_uid: str, header: Header) -> Candidate:
    """Return one object as a candidate. Raises Unreadable if it is not an image, or one that can never be shown."""
    if header.pixels is not None and header.pixels.tag in FLOAT_PIXELS:
        header.pixel_data()  # a map of floating-point numbers is an image, of a kind that is not supported
    if not is_reportable(header.text("SOPClassUID")):
        raise Unreadable(Reason.NOT_AN_IMAGE, "the object is not an image that can be reported")
    types = _types(header)
    if "LABEL" in types:
        raise Unreadable(Reason.LABEL, "the label of a slide can identify the patient")
    shape_of(header)
    modality = modality_of(header)
    return Candidate(sop_instance_uid, header, modality, _tier(header, types, modality))


def modality_of(header: Header) -> str:
    """Return the modality of an object; that of its SOP class if it states none."""
    return header.code("Modality") or _MODALITIES.get(header.text("SOPClassUID")[26:], "OT")


def series_of(header: Header) -> str:
    """Return the series number of an object, for display."""
    number = header.number("SeriesNumber")
    return "without number" if number is None else str(header.integer("SeriesNumber"))


def stable_order(item: Candidate) -> tuple[object, ...]:
    """Return the sort key of an object: by series and instance, so that the order of arrival decides nothing."""
    header = item.header
    numbers = header.integer("SeriesNumber"), header.integer("InstanceNumber")
    return numbers[0], item.series, numbers[1], item.sop_instance_uid


def best_of(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the objects to select from: of each modality family and body part the best tier with enough images.

    Secondary captures, projections and localizers only if nothing in the study is better.
    """
    counted: dict[tuple[str, Parts], Counter[Tier]] = defaultdict(Counter)
    for item in candidates:
        counted[item.family, item.parts][item.tier] += item.header.frames
    tiers = {group: _tier_of(counts) for group, counts in counted.items()}
    worst = max(Tier.DERIVED, min(tiers.values(), default=Tier.PRIMARY))
    return [item for item in candidates if item.tier == tiers[item.family, item.parts] <= worst]


def _tier_of(counts: Counter[Tier]) -> Tier:
    primary, derived = counts[Tier.PRIMARY], counts[Tier.DERIVED]
    return Tier.DERIVED if primary < min(_MIN_PRIMARY, derived) else min(tier for tier in Tier if counts[tier])


def with_described_localizers(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the same objects, with those in the localizer tier that only their description calls localizers."""
    described = {item.sop_instance_uid for item in candidates if _described_as_localizer(item)}
    if not described:
        return list(candidates)
    series: dict[str, list[Candidate]] = defaultdict(list)
    for item in candidates:
        series[item.series].append(item)
    localizers = {uid for uid, items in series.items() if _is_like_localizer(items)}
    return [
        replace(item, tier=Tier.LOCALIZER) if item.sop_instance_uid in described and item.series in localizers else item
        for item in candidates
    ]


def _is_like_localizer(items: Iterable[Candidate]) -> bool:
    """Return whether a series is as short as a localizer, or has several orientations."""
    frames, orientations = 0, set()
    for item in items:
        frames += item.header.frames
        orientations.add(tuple(round(part, 1) for part in item.header.shared().numbers("ImageOrientationPatient")))
    return frames <= _MAX_LOCALIZER_FRAMES or len(orientations) > 1


def _described_as_localizer(item: Candidate) -> bool:
    header = item.header
    if item.modality not in _CROSS_SECTIONAL or not _EXPLICIT_TYPES.isdisjoint(_types(header)):
        return False
    words = f"{header.text('SeriesDescription')} {header.text('ProtocolName')}".upper().replace("_", " ")
    return bool(_LOCALIZER.search(words))


def _types(header: Header) -> list[str]:
    return [part.upper() for part in header.texts("ImageType") or header.texts("FrameType")]


def _tier(header: Header, types: list[str], modality: str) -> Tier:
    if not _OVERVIEWS.isdisjoint(types):
        return Tier.LOCALIZER
    if f"{header.text('SOPClassUID')}.".startswith(_SECONDARY_CAPTURE) or not _PROJECTIONS.isdisjoint(types):
        return Tier.SECONDARY
    if types[1:2] == ["SECONDARY"]:
        return Tier.SECONDARY
    # A mosaic is a volume in one image, each slice of it very small.
    derived = types[:1] == ["DERIVED"] or "MOSAIC" in types
    return Tier.DERIVED if derived and modality in _CROSS_SECTIONAL else Tier.PRIMARY
