"""The objects of a study that could be shown, and how good a choice each is, judged by its header alone."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING

from db.errors import Reason
from db.studies.modalities import family_of
from db.studies.sop_classes import reportable
from worker.images.decode.frames import shape_of
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from worker.images.decode.header import Header
    from worker.images.render.windows import Window


class Tier(IntEnum):
    """What a study is reported from, best first; a worse tier is used only where no better one is there."""

    PRIMARY = 0
    DERIVED = 1
    SECONDARY = 2
    LOCALIZER = 3


#: How a report names what it had to make do with.
NAMES = {
    Tier.PRIMARY: "primary images",
    Tier.DERIVED: "derived images",
    Tier.SECONDARY: "secondary captures or projections",
    Tier.LOCALIZER: "localizers",
}

_VOLUMES = frozenset({"CT", "MR", "PT"})
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7."
_PROJECTIONS = frozenset({"MIP", "MINIP", "MAX_IP", "MIN_IP", "PROJECTION IMAGE", "SCREEN SAVE", "VOLREND", "CAPTURE"})
_OVERVIEWS = frozenset({"LOCALIZER", "OVERVIEW"})
_LOCALIZER = re.compile(r"\b(LOCALI[SZ]ER|LOC|SCOUT|TOPOGRAM|SURVIEW|SCANOGRAM|SURVEY)\b")
#: Words count only where Image Type says nothing of it, in a series no longer than this or of several orientations: a
#: bone survey is no survey scan.
_FEW_SLICES = 5
_SAYS_WHAT_IT_IS = frozenset({"AXIAL", "VOLUME", "LOCALIZER"})
#: Derived images of a modality are used where there are fewer primary ones than this, and more derived.
_ENOUGH = 3
#: The modality of an image class that names only one, for objects that leave Modality out.
_MODALITIES = {
    "1": "CR", "1.1": "DX", "1.1.1": "DX", "1.2": "MG", "1.2.1": "MG", "1.3": "IO", "1.3.1": "IO",
    "2": "CT", "2.1": "CT", "2.2": "CT", "3": "US", "3.1": "US", "4": "MR", "4.1": "MR", "4.3": "MR", "4.4": "MR",
    "5": "NM", "6": "US", "6.1": "US", "6.2": "US", "12.1": "XA", "12.1.1": "XA", "12.2": "RF", "12.2.1": "RF",
    "13.1.3": "MG", "20": "NM", "77.1.1": "ES", "77.1.2": "GM", "77.1.4": "XC", "77.1.5.1": "OP", "77.1.5.2": "OP",
    "77.1.5.4": "OPT", "77.1.6": "SM", "128": "PT", "128.1": "PT", "130": "PT",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Candidate:
    """One object that could be shown; *identity* is the SOP Instance UID it was stored under."""

    identity: str
    header: Header
    modality: str
    tier: Tier

    @property
    def family(self) -> str:
        """The family of modalities the object is selected with."""
        return family_of(self.modality)


@dataclass(frozen=True, slots=True)
class Choice:
    """One image to be drawn: which frame, why, and how.

    *header* is the frame's own where frames differ; *window* replaces the header's; *whole* draws every frame of a
    slide's level as the one image it is.
    """

    identity: str
    header: Header
    frame: int
    reason: str
    window: Window | None = None
    whole: bool = False


if TYPE_CHECKING:
    #: Says, of the choices that became images, how many of how many they are.
    Basis = Callable[[Sequence[Choice]], str]


def candidate(identity: str, header: Header) -> Candidate:
    """Judge one object. Raises Unreadable where it is no image, or one that can never be shown."""
    if not reportable(header.text("SOPClassUID")):
        raise Unreadable(Reason.NOT_AN_IMAGE, "the object is not an image that can be reported")
    types = _types(header)
    if "LABEL" in types:
        raise Unreadable(Reason.LABEL, "the label of a slide can identify the patient")
    shape_of(header)
    modality = header.code("Modality") or _MODALITIES.get(header.text("SOPClassUID")[26:], "OT")
    return Candidate(identity, header, modality, _tier(header, types, modality))


def series_of(header: Header) -> str:
    """The number of an object's series, for people."""
    number = header.number("SeriesNumber")
    return "without number" if number is None else str(header.integer("SeriesNumber"))


def best_of(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The objects a study is reported from: of each modality the best tier that has enough.

    Secondary captures, projections and localizers only where no modality has better.
    """
    counted: dict[str, Counter[Tier]] = defaultdict(Counter)
    for item in candidates:
        counted[item.family][item.tier] += item.header.frames
    tiers = {family: _tier_of(counts) for family, counts in counted.items()}
    worst = max(Tier.DERIVED, min(tiers.values(), default=Tier.PRIMARY))
    return [item for item in candidates if item.tier == tiers[item.family] <= worst]


def _tier_of(counts: Counter[Tier]) -> Tier:
    primary, derived = counts[Tier.PRIMARY], counts[Tier.DERIVED]
    return Tier.DERIVED if primary < min(_ENOUGH, derived) else min(tier for tier in Tier if counts[tier])


def without_scouts(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The same objects; those that only their description calls a localizer are put into that tier."""
    called = {item.identity for item in candidates if _called_localizer(item)}
    if not called:
        return list(candidates)
    series: dict[str, list[Candidate]] = defaultdict(list)
    for item in candidates:
        series[item.header.text("SeriesInstanceUID")].append(item)
    scouts = {uid for uid, items in series.items() if _short(items)}
    return [
        replace(item, tier=Tier.LOCALIZER)
        if item.identity in called and item.header.text("SeriesInstanceUID") in scouts
        else item
        for item in candidates
    ]


def _short(items: Iterable[Candidate]) -> bool:
    """Whether a series is as short as scouts are, or looks from several sides."""
    frames, orientations = 0, set()
    for item in items:
        frames += item.header.frames
        orientations.add(tuple(round(part, 1) for part in item.header.shared().numbers("ImageOrientationPatient")))
    return frames <= _FEW_SLICES or len(orientations) > 1


def _called_localizer(item: Candidate) -> bool:
    header = item.header
    if item.modality not in _VOLUMES or not _SAYS_WHAT_IT_IS.isdisjoint(_types(header)):
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
    # A mosaic is a volume on one sheet, each slice of it the size of a stamp.
    derived = types[:1] == ["DERIVED"] or "MOSAIC" in types
    return Tier.DERIVED if derived and modality in _VOLUMES else Tier.PRIMARY
