"""Name the series of which no image is shown, and why, and those whose body part is doubtful."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, NamedTuple

from worker.images.select.body_parts import body_parts_of, name_of, statements_of
from worker.images.select.candidates import NAMES, Tier, modality_of, series_of
from worker.images.select.extents import extent_of, in_distinct_places, place_of, same_extent
from worker.images.select.groups import VOLUMES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from worker.images.decode.header import Header
    from worker.images.select.body_parts import Parts
    from worker.images.select.candidates import Candidate
    from worker.images.select.groups import Chosen

CHECK = "Check that the images belong to this patient and body part"
#: Series named in one sentence.
_MAX_NAMED = 12

#: Families of which a series, or a slide, is read as one.
_TOGETHER = VOLUMES | {"SM"}

_PARTS = "more body parts than images can be shown"
_COPY = "a copy of another series"
_PROCESSING = "copies for processing"
_SAME_REGION = "another series of the same region"
_SERIES = "another series of the same body part"
_IMAGES = "more images than can be shown"
_TOO_FEW = "too few primary images; derived images are shown"


class Unit(NamedTuple):
    """Objects that are named together: a series, or the part of it that shows one body part."""

    series: str
    modality: str
    body_part: str


class _Selection(NamedTuple):
    """Tier of each group, objects of the groups, objects shown, and copies."""

    tiers: dict[tuple[str, Parts], Tier]
    used: Collection[str]
    shown: list[Candidate]
    copies: Collection[str]


def unread(
    found: Sequence[Candidate], chosen: Sequence[Chosen], shown: Collection[str], copies: Collection[str]
) -> list[str]:
    """Return a sentence for each cause: "Not read: series 2, CT HEAD, 24 images (localizers).".

    *found* are the readable objects; *shown* and *copies* hold SOP Instance UIDs.
    """
    units: dict[Unit, list[Candidate]] = defaultdict(list)
    for item in found:
        units[Unit(_container(item), item.modality, name_of(item.parts))].append(item)
    selection = _Selection(
        tiers={(one.group.family, one.group.parts): one.group.tier for one in chosen},
        used={each.sop_instance_uid for one in chosen for each in one.group.candidates},
        shown=[item for item in found if item.sop_instance_uid in shown],
        copies=copies,
    )
    causes: dict[str, list[str]] = defaultdict(list)
    for unit, items in units.items():
        for cause, some in _causes(items, selection).items():
            causes[cause].append(_named(unit, some, items))
    return [f"Not read: {listed(names)} ({cause})." for cause, names in causes.items()]


def contradictions(found: Sequence[Candidate]) -> list[str]:
    """Return a sentence for each series whose coded body part and description contradict each other."""
    named = {}
    for item in found:
        if (stated := statements_of(item.header)).contradictory:
            named[item.series, stated] = series_of(item.header)
    return [
        f"Series {series}: the body part is {name_of(coded)}, the description names {name_of(described)}. {CHECK}."
        for (_, (coded, described)), series in named.items()
    ]


def assumed(found: Sequence[Candidate], shown: Collection[str]) -> list[str]:
    """Return a sentence for each shown series whose body part may be wrong, because it does not state it itself.

    It is read as the part of another series, or as that of the study, although series of the study lie elsewhere.
    """
    series: dict[str, list[Candidate]] = defaultdict(list)
    for item in found:
        series[item.series].append(item)
    read = {item.series: item for item in found if item.sop_instance_uid in shown and item.parts}
    sentences = []
    for uid, item in read.items():
        name, part = f"Series {series_of(item.header)}", name_of(item.parts)
        if not any(body_parts_of(each.header) for each in series[uid]):
            sentences.append(
                f"{name}: no body part is given; read as {part}, the only part of the other series. {CHECK}."
            )
        elif not any(any(statements_of(each.header)) for each in series[uid]) and _has_more_places(item, found):
            sentences.append(
                f"{name}: the body part is given for the study only; read as {part}, although series of the study lie "
                f"in different places. {CHECK}."
            )
    return sentences


def _has_more_places(item: Candidate, found: Iterable[Candidate]) -> bool:
    """Return whether the series read as the parts of a slice lie in more places than it has parts."""
    if item.family not in VOLUMES:
        return False
    series: dict[str, list[Candidate]] = {item.series: []}
    for each in found:
        if (each.family, each.parts, each.tier) == (item.family, item.parts, item.tier):
            series.setdefault(each.series, []).append(each)
    return len(in_distinct_places(series.values(), place_of)) > len(item.parts)


def _container(item: Candidate) -> str:
    """Return the series; of a slide its frame of reference, because the levels of one slide show the same."""
    return (item.family == "SM" and item.header.text("FrameOfReferenceUID")) or item.series


def _causes(items: Sequence[Candidate], selection: _Selection) -> dict[str, list[Candidate]]:
    """Return the objects of one unit that were not read, by cause."""
    causes: dict[str, list[Candidate]] = defaultdict(list)
    uids = {item.sop_instance_uid for item in selection.shown}
    if items[0].family in _TOGETHER and any(item.sop_instance_uid in uids for item in items):
        # The basis counts the slices of a series that is shown.
        items = [item for item in items if item.sop_instance_uid not in selection.used]
    for item in items:
        if item.sop_instance_uid not in uids:
            causes[_cause(item, selection)].append(item)
    if _SERIES in causes and _same_region(causes[_SERIES], selection.shown):
        causes[_SAME_REGION] = causes.pop(_SERIES)
    return causes


def _cause(item: Candidate, selection: _Selection) -> str:
    tier = selection.tiers.get((item.family, item.parts))
    if item.sop_instance_uid in selection.copies:
        return _COPY
    if item.sop_instance_uid not in selection.used and item.tier >= Tier.SECONDARY:
        return NAMES[item.tier]
    if tier is None:
        return _PARTS
    if item.tier != tier:
        return NAMES[item.tier] if item.tier > tier else _TOO_FEW
    if item.header.text("PresentationIntentType") == "FOR PROCESSING":
        return _PROCESSING
    return _SERIES if item.family in VOLUMES else _IMAGES


def _named(unit: Unit, some: Sequence[Candidate], of: Sequence[Candidate]) -> str:
    frames, total = (sum(item.header.frames for item in items) for items in (some, of))
    noun = "images" if total == len(of) else "frames"
    count = f"{frames} of {total} {noun}" if frames < total else "1 image" if total == 1 else f"{total} {noun}"
    label = f"{unit.modality} {unit.body_part}".rstrip()
    return f"series {series_of(some[0].header)}, {label}, {count}"


def series_name(header: Header) -> str:
    """Return the name of an object's series in a sentence: "series 2, CT HEAD"."""
    label = f"{modality_of(header)} {name_of(body_parts_of(header))}".rstrip()
    return f"series {series_of(header)}, {label}"


def listed(names: Sequence[str]) -> str:
    """Return names in one phrase, at most twelve."""
    more = len(names) - _MAX_NAMED
    return "; ".join(names[:_MAX_NAMED]) + (f"; {more} further series" if more > 0 else "")


def _same_region(items: Sequence[Candidate], shown: Iterable[Candidate]) -> bool:
    """Return whether the slices lie where shown ones lie, in one frame of reference."""
    frame, family = items[0].header.text("FrameOfReferenceUID"), items[0].family
    others = [each for each in shown if each.family == family and each.header.text("FrameOfReferenceUID") == frame]
    return same_extent(extent_of(items), extent_of(others))
