"""Choosing from CT, MR and PET: which volumes, which slices, which windows.

Slices are ordered by where they are, never by InstanceNumber, which follows the order of acquisition or of a
reconstruction's whim: ImagePositionPatient projected on the normal of ImageOrientationPatient (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from worker.images.render.windows import Window, ct_windows, header_windows
from worker.images.select.candidates import Choice, series_of
from worker.images.select.orientations import Directions, along
from worker.images.select.sampling import choose_frames, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.images.decode.header import Header
    from worker.images.select.candidates import Basis, Candidate
    from worker.images.select.orientations import Direction

    Key = tuple[Direction | None, *tuple[object, ...]]

#: Volumes of one MR study that share the budget: more would leave less than two slices each.
_MR_VOLUMES = 4
#: Volumes with fewer slices are scouts and test shots, where a fuller one is there.
_FEW = 3
#: An axial volume of less than this part of the fullest one's slices is not preferred to it.
_SHARE = 4
#: Millimetres between the first and the last slice below which their places say nothing.
_LEAST_SPREAD = 0.1


class Slice(NamedTuple):
    """One slice, from whatever kind of object: its place along the normal in mm, None where it does not say.

    *acquired* orders the slices of one place. The header is made again for those chosen: all of them would not fit.
    """

    item: Candidate
    frame: int
    place: float | None
    acquired: tuple[float, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """Slices of one orientation, echo and phase of one series, in order, one for each place."""

    slices: list[Slice]
    direction: Direction | None
    #: Slices at places that others stand for.
    repeated: int

    @property
    def axial(self) -> bool:
        """Whether its slices lie across the body."""
        return self.direction is not None and abs(self.direction[2]) >= max(map(abs, self.direction))

    @property
    def uid(self) -> str:
        """Series Instance UID."""
        return self.slices[0].item.header.text("SeriesInstanceUID")

    @property
    def series(self) -> str:
        """The number of its series, for people."""
        return series_of(self.slices[0].item.header)


def choose(candidates: Sequence[Candidate], budget: int, region: str) -> tuple[list[Choice], Basis]:
    """At most *budget* slices of the volumes of one modality, and what says how many of how many.

    Runs of frames that say nothing of where they lie are shown as runs, where there is nothing else.
    """
    groups = _slices(candidates)
    if not groups:
        return choose_frames(candidates, budget)
    volumes = _volumes(groups)
    chosen = _worth_showing(volumes, candidates[0].modality, budget)
    choices: list[Choice] = []
    for number, volume in enumerate(chosen):
        share = budget // len(chosen) + (number < budget % len(chosen))
        for window, count in _windows(volume, candidates[0].modality, region, share):
            choices += _choices(volume, spread(len(volume.slices), count), window)
    used = {volume.uid for volume in chosen}
    others = sum(len(volume.slices) for volume in volumes if volume not in chosen and volume.uid in used)
    return choices, lambda shown: _basis(shown, chosen, others)


def _slices(candidates: Iterable[Candidate]) -> dict[Key, list[Slice]]:
    groups: dict[Key, list[Slice]] = defaultdict(list)
    directions = Directions()
    for item in candidates:
        for frame, header in enumerate(_headers(item.header)):
            normal = directions.of(header.numbers("ImageOrientationPatient"))
            place = along(normal, header.numbers("ImagePositionPatient"))
            acquired = header.number("AcquisitionNumber") or 0.0, header.integer("InstanceNumber"), frame
            groups[(*_key(header, normal), place is None)].append(Slice(item, frame, place, acquired))
    return groups


def _headers(header: Header) -> Iterable[Header]:
    return header.of_frames([0]).values() if header.frames == 1 else header.by_frame()


def _key(header: Header, normal: Direction | None) -> Key:
    """What separates the volumes that one series may hold."""
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
    for direction, slices in ((key[0], part) for key, group in groups.items() for part in _acquisitions(group)):
        places = [item.place for item in slices if item.place is not None]
        if not places or max(places) - min(places) < _LEAST_SPREAD:
            unplaced = sorted((item._replace(place=None) for item in slices), key=lambda item: item.acquired)
            volumes.append(Volume(unplaced, direction, 0))
            continue
        # Several at one place are phases nothing else told apart: the first acquired stands for them.
        distinct: dict[float, Slice] = {}
        for item in sorted(slices, key=lambda item: (item.place or 0.0, item.acquired)):
            distinct.setdefault(_rounded(item), item)
        volumes.append(Volume(list(distinct.values()), direction, len(slices) - len(distinct)))
    return volumes


def _acquisitions(slices: list[Slice]) -> list[list[Slice]]:
    """Slices by acquisition where two went through the same part of the body at places of their own; else together.

    AcquisitionNumber alone does not tell: some scanners count every slice, and one may go on where another ended.
    """
    parts: dict[float, list[Slice]] = defaultdict(list)
    for item in slices:
        parts[item.acquired[0]].append(item)
    sizes = [len(part) for part in parts.values()]
    if len(parts) == 1 or min(sizes) < _FEW or len({_rounded(item) for item in slices}) == max(sizes):
        return [slices]
    spans = sorted(_span(part) for part in parts.values())
    return [parts[number] for number in sorted(parts)] if any(map(_same_part, spans, spans[1:])) else [slices]


def _rounded(item: Slice) -> float:
    return round(item.place or 0.0, 2)


def _span(slices: list[Slice]) -> tuple[float, float]:
    places = [item.place or 0.0 for item in slices]
    return min(places), max(places)


def _same_part(one: tuple[float, float], next_one: tuple[float, float]) -> bool:
    """Whether more than half of the shorter span is in both; *next_one* begins later."""
    common = min(one[1], next_one[1]) - next_one[0]
    return common > 0 and common * 2 > min(one[1] - one[0], next_one[1] - next_one[0])


def _worth_showing(volumes: list[Volume], modality: str, budget: int) -> list[Volume]:
    """CT and PET: the fullest axial volume. MR: one of each series, then what else looks from another side."""
    fuller = [volume for volume in volumes if len(volume.slices) >= _FEW] or volumes
    fullest = max(len(volume.slices) for volume in fuller)
    # An axial volume comes first unless it is a remnant beside another.
    ranked = sorted(
        fuller,
        key=lambda volume: (volume.axial and len(volume.slices) * _SHARE >= fullest, len(volume.slices)),
        reverse=True,
    )
    if modality != "MR":
        return ranked[:1]
    of_series: dict[object, Volume] = {}
    of_side: dict[object, Volume] = {}
    for volume in ranked:
        of_series.setdefault(volume.uid, volume)
        of_side.setdefault((volume.uid, volume.direction), volume)
    firsts = list(dict.fromkeys([*of_series.values(), *of_side.values()]))
    several = firsts[: max(1, min(_MR_VOLUMES, budget // 2))]
    return sorted(several, key=lambda volume: volume.slices[0].item.header.integer("SeriesNumber"))


def _windows(volume: Volume, modality: str, region: str, share: int) -> list[tuple[Window | None, int]]:
    first = volume.slices[0]
    header = first.item.header.of_frames([first.frame])[first.frame]
    hounsfield = modality == "CT" and "RescaleIntercept" in header
    if hounsfield and (region or not header_windows(header)):
        return [*ct_windows(region, share)]
    return [(None, share)]


def _choices(volume: Volume, places: Sequence[int], window: Window | None) -> list[Choice]:
    wanted: dict[str, list[int]] = defaultdict(list)
    for place in places:
        wanted[volume.slices[place].item.identity].append(volume.slices[place].frame)
    objects = {volume.slices[place].item.identity: volume.slices[place].item.header for place in places}
    headers = {identity: objects[identity].of_frames(frames) for identity, frames in wanted.items()}
    return [
        Choice(
            item.item.identity,
            headers[item.item.identity][item.frame],
            item.frame,
            _reason(volume, place, window),
            window,
        )
        for place, item in ((place, volume.slices[place]) for place in places)
    ]


def _reason(volume: Volume, place: int, window: Window | None) -> str:
    reason = f"slice {place + 1} of {len(volume.slices)} of series {volume.series}"
    if volume.slices[place].place is None and len(volume.slices) > 1:
        reason += ", in acquisition order (slice positions missing)"
    return reason + (f", {window.name} window" if window else "")


def _basis(choices: Iterable[Choice], volumes: list[Volume], others: int) -> str:
    shown = len({(choice.identity, choice.frame) for choice in choices})
    total = sum(len(volume.slices) for volume in volumes)
    repeated = sum(volume.repeated for volume in volumes)
    series = ", ".join(sorted({volume.series for volume in volumes}, key=lambda number: (len(number), number)))
    more = f"; {repeated} further slices at the same positions not shown" if repeated else ""
    apart = f"; {others} further slices of other volumes not shown" if others else ""
    return f"{shown} of {total} slices of series {series}{more}{apart}"
