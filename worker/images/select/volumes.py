"""Select from CT, MR and PET: volumes, slices, windows.

Slices are ordered by position: Image Position (Patient) projected on the normal of Image Orientation (Patient), PS3.3
C.7.6.2.1.1. Instance Number is not used: it follows the acquisition or an arbitrary order.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from worker.images.render.orientation import plane_of
from worker.images.render.units import is_hounsfield
from worker.images.select.candidates import Selection, Tier, series_of
from worker.images.select.ct_windows import WindowShare, windows_for
from worker.images.select.extents import headers_of, in_distinct_places, place_of
from worker.images.select.orientations import Orientations, position_along
from worker.images.select.sampling import even_shares, evenly, select_frames

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.images.decode.header import Header
    from worker.images.render.windows import Window
    from worker.images.select.body_parts import Parts
    from worker.images.select.candidates import Basis, Candidate
    from worker.images.select.extents import Place
    from worker.images.select.orientations import Normal

    Key = tuple[Normal | None, *tuple[object, ...]]

#: Volumes of one MR study that share the budget: more would leave fewer than two slices each.
_MAX_MR_VOLUMES = 4
#: Slices below which a volume is a localizer or a test image, if there is a larger one.
_MIN_SLICES = 3
#: An axial volume is preferred unless the largest volume has more than this many times its slices.
_MAX_RATIO = 4
#: Millimetres between the first and the last slice below which positions do not order them.
_MIN_EXTENT = 0.1


class Slice(NamedTuple):
    """One slice of a single-frame or multi-frame object: its position along the normal in mm, None if unknown.

    *acquired* orders the slices of one position. Selected slices' headers are read again, to save memory.
    """

    item: Candidate
    frame: int
    position: float | None
    acquired: tuple[float, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Slices of one orientation, echo and phase of one series, in order, one per position."""

    slices: list[Slice]
    normal: Normal | None
    #: Slices left out because another has the same position.
    repeated: int

    @property
    def axial(self) -> bool:
        """True if its slices are axial."""
        return self.normal is not None and plane_of(self.normal) == "axial"

    @property
    def stack(self) -> str:
        """Name of the volume among those of its study."""
        return f"{self.slices[0].item.sop_instance_uid} {self.slices[0].frame}"

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return self.slices[0].item.header.text("SeriesInstanceUID")

    @property
    def series(self) -> str:
        """Series number, for display."""
        return series_of(self.slices[0].item.header)


def select_slices(candidates: Sequence[Candidate], budget: int, parts: Parts) -> tuple[list[Selection], Basis]:
    """Select at most *budget* slices of the volumes of one modality; also return the basis."""
    groups = _slices(candidates)
    if not groups:
        # Frames without positions are sampled as a run.
        return select_frames(candidates, budget)
    volumes = _volumes(groups)
    preferred = _preferred(volumes, candidates[0].modality, budget, parts)
    selections: list[Selection] = []
    for volume, share in zip(preferred, even_shares(budget, len(preferred)), strict=True):
        for window in _windows(volume, candidates[0].modality, parts, share):
            selections += _selections(volume, _within(volume, window), window.window)
    used = {volume.uid for volume in preferred}
    others = sum(len(volume.slices) for volume in volumes if volume not in preferred and volume.uid in used)
    return selections, lambda shown: _basis(shown, preferred, others)


def _slices(candidates: Iterable[Candidate]) -> dict[Key, list[Slice]]:
    groups: dict[Key, list[Slice]] = defaultdict(list)
    orientations = Orientations()
    for item in candidates:
        for frame, header in enumerate(headers_of(item.header)):
            normal = orientations.normal_of(header.numbers("ImageOrientationPatient"))
            position = position_along(normal, header.numbers("ImagePositionPatient"))
            acquired = header.number("AcquisitionNumber") or 0.0, header.integer("InstanceNumber"), frame
            groups[(*_key(header, normal), position is None)].append(Slice(item, frame, position, acquired))
    return groups


def _key(header: Header, normal: Normal | None) -> Key:
    """Return the attributes in which the volumes of one series differ."""
    return (
        normal,
        header.text("SeriesInstanceUID"),
        header.integer("Rows"),
        header.integer("Columns"),
        header.number("EffectiveEchoTime") or header.number("EchoTime"),
        header.number("DiffusionBValue"),
        header.number("TemporalPositionIdentifier"),
        tuple((header.texts("FrameType") or header.texts("ImageType"))[2:]),
    )


def _volumes(groups: dict[Key, list[Slice]]) -> list[Volume]:
    volumes = []
    for normal, slices in ((key[0], part) for key, group in groups.items() for part in _acquisitions(group)):
        positions = [item.position for item in slices if item.position is not None]
        if not positions or max(positions) - min(positions) < _MIN_EXTENT:
            unplaced = sorted((item._replace(position=None) for item in slices), key=lambda item: item.acquired)
            volumes.append(Volume(unplaced, normal, 0))
            continue
        # Several at one position are phases that no attribute distinguishes: the first acquired represents them.
        distinct: dict[float, Slice] = {}
        for item in sorted(slices, key=lambda item: (item.position or 0.0, item.acquired)):
            distinct.setdefault(_rounded(item), item)
        volumes.append(Volume(list(distinct.values()), normal, len(slices) - len(distinct)))
    return volumes


def _acquisitions(slices: list[Slice]) -> list[list[Slice]]:
    """Split slices by acquisition if two cover the same range at different positions; else keep them together.

    Acquisition Number alone does not decide: some scanners count every slice, and one may continue where another ended.
    """
    parts: dict[float, list[Slice]] = defaultdict(list)
    for item in slices:
        parts[item.acquired[0]].append(item)
    sizes = [len(part) for part in parts.values()]
    if len(parts) == 1 or min(sizes) < _MIN_SLICES or len({_rounded(item) for item in slices}) == max(sizes):
        return [slices]
    spans = sorted(_span(part) for part in parts.values())
    return [parts[number] for number in sorted(parts)] if any(map(_overlap, spans, spans[1:])) else [slices]


def _rounded(item: Slice) -> float:
    return round(item.position or 0.0, 2)


def _span(slices: list[Slice]) -> tuple[float, float]:
    positions = [item.position or 0.0 for item in slices]
    return min(positions), max(positions)


def _overlap(one: tuple[float, float], next_one: tuple[float, float]) -> bool:
    """Return whether the spans share more than half of the shorter one; *next_one* begins later."""
    common = min(one[1], next_one[1]) - next_one[0]
    return common > 0 and common * 2 > min(one[1] - one[0], next_one[1] - next_one[0])


def _preferred(volumes: list[Volume], modality: str, budget: int, parts: Parts) -> list[Volume]:
    """Return the volumes to use: of MR one per series, then other orientations; of CT and PET the largest axial one.

    If the study names several body parts for all its series, the largest one of each place.
    """
    usable = [volume for volume in volumes if len(volume.slices) >= _MIN_SLICES] or volumes
    largest = max(len(volume.slices) for volume in usable)
    # An axial volume comes first unless it is a remnant of another; of equal ones the first acquired.
    ranked = sorted(
        usable,
        key=lambda volume: (
            not (volume.axial and len(volume.slices) * _MAX_RATIO >= largest),
            -len(volume.slices),
            volume.slices[0].item.header.integer("SeriesNumber"),
            min(one.acquired for one in volume.slices),
        ),
    )
    if modality != "MR":
        # Without a volume of several slices each image has its own orientation and place.
        if largest < _MIN_SLICES:
            return ranked[:budget]
        return in_distinct_places(ranked, _place_of)[: max(1, min(len(parts), budget // 2))]
    of_series: dict[object, Volume] = {}
    of_orientation: dict[object, Volume] = {}
    for volume in ranked:
        of_series.setdefault(volume.uid, volume)
        of_orientation.setdefault((volume.uid, volume.normal), volume)
    firsts = list(dict.fromkeys([*of_series.values(), *of_orientation.values()]))
    several = firsts[: max(1, min(_MAX_MR_VOLUMES, budget // 2))]
    return sorted(several, key=lambda volume: volume.slices[0].item.header.integer("SeriesNumber"))


def _place_of(volume: Volume) -> Place:
    return place_of([one.item for one in volume.slices])


def _windows(volume: Volume, modality: str, parts: Parts, share: int) -> list[WindowShare]:
    if modality != "CT" or volume.slices[0].item.tier == Tier.LOCALIZER:
        return [WindowShare(None, share)]
    return windows_for(_first_header(volume), parts, share)


def _within(volume: Volume, share: WindowShare) -> list[int]:
    """Return the indices of the slices that a window shows; slices of an axial volume rise from the feet."""
    low, high = share.extent if volume.axial and volume.slices[0].position is not None else (0.0, 1.0)
    total = len(volume.slices)
    first, last = min(total - 1, round(low * total)), round(high * total)
    return [first + index for index in evenly(max(1, last - first), share.images)]


def _first_header(volume: Volume) -> Header:
    first = volume.slices[0]
    return first.item.header.of_frames([first.frame])[first.frame]


def _selections(volume: Volume, indices: Sequence[int], window: Window | None) -> list[Selection]:
    wanted: dict[str, list[Slice]] = defaultdict(list)
    for index in indices:
        wanted[volume.slices[index].item.sop_instance_uid].append(volume.slices[index])
    headers = {uid: own[0].item.header.of_frames([one.frame for one in own]) for uid, own in wanted.items()}
    orientation = _first_header(volume).numbers("ImageOrientationPatient")
    selections = []
    for index in indices:
        uid, frame = volume.slices[index].item.sop_instance_uid, volume.slices[index].frame
        header = headers[uid][frame]
        own = window if window and is_hounsfield(header) else None
        reason = _reason(volume, index, own)
        selections.append(Selection(uid, header, frame, reason, own, volume=orientation, stack=volume.stack))
    return selections


def _reason(volume: Volume, index: int, window: Window | None) -> str:
    reason = f"slice {index + 1} of {len(volume.slices)} of series {volume.series}"
    if volume.slices[index].position is None and len(volume.slices) > 1:
        reason += ", in acquisition order (slice positions missing)"
    return reason + (f", {window.name} window" if window else "")


def _basis(selections: Iterable[Selection], volumes: list[Volume], others: int) -> str:
    shown = len({(selection.sop_instance_uid, selection.frame) for selection in selections})
    total = sum(len(volume.slices) for volume in volumes)
    repeated = sum(volume.repeated for volume in volumes)
    series = ", ".join(sorted({volume.series for volume in volumes}, key=lambda number: (len(number), number)))
    more = f"; {repeated} further slices at the same positions not shown" if repeated else ""
    apart = f"; {others} further slices of other volumes not shown" if others else ""
    return f"{shown} of {total} slices of series {series}{more}{apart}"
