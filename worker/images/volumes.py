"""Choosing from CT, MR and PET: which volumes, which slices, which windows.

Slices are ordered by where they are, never by InstanceNumber, which follows the order of acquisition or of a
reconstruction's whim: ImagePositionPatient projected on the normal of ImageOrientationPatient (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worker.images.candidates import Choice
from worker.images.windows import Window, ct_windows, header_windows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.images.candidates import Candidate
    from worker.images.header import Header

#: Volumes of one MR study that share the budget: more would leave less than two slices each.
_MR_VOLUMES = 4
#: The ends of a volume show mostly air, shoulders or table; slices are spread over what is between.
_TRIM = 0.1
#: Volumes with fewer slices are scouts and test shots, where a fuller one is there.
_FEW = 3


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice, from whatever kind of object: its place along the normal in mm, None where it does not say."""

    identity: str
    header: Header
    frame: int
    place: float | None


@dataclass(frozen=True, slots=True)
class Volume:
    """Slices of one orientation, echo and phase of one series, in order, one for each place."""

    slices: list[Slice]
    axial: bool

    @property
    def series(self) -> str:
        """The number of its series, for people."""
        return self.slices[0].header.text("SeriesNumber") or "?"


def choose(candidates: Sequence[Candidate], budget: int, region: str) -> tuple[list[Choice], str]:
    """At most *budget* slices of the volumes of one modality, and the sentence that says how many of how many."""
    volumes = _volumes(_slices(candidates))
    chosen = _worth_showing(volumes, candidates[0].modality, budget)
    choices: list[Choice] = []
    for number, volume in enumerate(chosen):
        share = budget // len(chosen) + (number < budget % len(chosen))
        for window, count in _windows(volume, candidates[0].modality, region, share):
            choices += [_choice(volume, place, window) for place in spread(len(volume.slices), count)]
    return choices, _basis(choices, chosen)


def spread(total: int, count: int) -> list[int]:
    """At most *count* places of *total*, evenly over what is left when both ends are trimmed."""
    if count >= total:
        return list(range(total))
    edge = (total - 1) * _TRIM if count > 1 else (total - 1) / 2
    return sorted({round(place) for place in np.linspace(edge, total - 1 - edge, count)})


def _slices(candidates: Iterable[Candidate]) -> dict[tuple[object, ...], list[Slice]]:
    groups: dict[tuple[object, ...], list[Slice]] = defaultdict(list)
    for item in candidates:
        for frame, header in enumerate(item.header.by_frame() or [item.header.shared()] * item.header.frames):
            normal = _normal(header)
            place = _along(normal, header.numbers("ImagePositionPatient"))
            groups[_key(header, normal)].append(Slice(item.identity, header, frame, place))
    return groups


def _along(normal: Sequence[float] | None, origin: Sequence[float]) -> float | None:
    if normal is None or len(origin) != len(normal):
        return None
    return sum(a * b for a, b in zip(normal, origin, strict=True))


def _key(header: Header, normal: Sequence[float] | None) -> tuple[object, ...]:
    """What separates the volumes that one series may hold."""
    return (
        header.text("SeriesInstanceUID"),
        None if normal is None else tuple(round(abs(part), 1) for part in normal),
        header.integer("Rows"),
        header.integer("Columns"),
        header.number("EffectiveEchoTime") or header.number("EchoTime"),
        header.number("DiffusionBValue"),
        header.number("TemporalPositionIdentifier"),
        tuple((header.texts("FrameType") or header.texts("ImageType"))[2:]),
    )


def _normal(header: Header) -> Sequence[float] | None:
    cosines = header.numbers("ImageOrientationPatient")
    if len(cosines) != 6:  # noqa: PLR2004 - two directions
        return None
    (a, b, c), (d, e, f) = cosines[:3], cosines[3:]
    return b * f - c * e, c * d - a * f, a * e - b * d


def _volumes(groups: dict[tuple[object, ...], list[Slice]]) -> list[Volume]:
    volumes = []
    for (_, normal, *_), slices in groups.items():
        ordered = sorted(slices, key=_by_place)
        # Several at one place are phases nothing else told apart: the first acquired stands for them.
        distinct = {(n if s.place is None else round(s.place, 2)): s for n, s in reversed(list(enumerate(ordered)))}
        axial = isinstance(normal, tuple) and normal.index(max(normal)) == 2  # noqa: PLR2004 - the z axis
        volumes.append(Volume(list(reversed(distinct.values())), axial))
    return volumes


def _by_place(item: Slice) -> tuple[float, float, int, int]:
    header = item.header
    place = 0.0 if item.place is None else item.place
    return place, header.number("AcquisitionNumber") or 0.0, header.integer("InstanceNumber"), item.frame


def _worth_showing(volumes: list[Volume], modality: str, budget: int) -> list[Volume]:
    """CT and PET: the fullest axial volume. MR: several contrasts, one volume of each series first."""
    fuller = [volume for volume in volumes if len(volume.slices) >= _FEW] or volumes
    ranked = sorted(fuller, key=lambda volume: (volume.axial, len(volume.slices)), reverse=True)
    if modality != "MR":
        return ranked[:1]
    first_of_series: dict[str, Volume] = {}
    for volume in ranked:
        first_of_series.setdefault(volume.slices[0].header.text("SeriesInstanceUID"), volume)
    several = list(first_of_series.values())[: max(1, min(_MR_VOLUMES, budget // 2))]
    return sorted(several, key=lambda volume: volume.slices[0].header.integer("SeriesNumber"))


def _windows(volume: Volume, modality: str, region: str, share: int) -> list[tuple[Window | None, int]]:
    header = volume.slices[0].header
    hounsfield = modality == "CT" and "RescaleIntercept" in header
    if hounsfield and (region or not header_windows(header)):
        return [*ct_windows(region, share)]
    return [(None, share)]


def _choice(volume: Volume, place: int, window: Window | None) -> Choice:
    item = volume.slices[place]
    reason = f"slice {place + 1} of {len(volume.slices)} of series {volume.series}"
    if item.place is None and len(volume.slices) > 1:
        reason += ", in stored order: the object does not say where it lies"
    return Choice(
        item.identity, item.header, item.frame, reason + (f", {window.name} window" if window else ""), window
    )


def _basis(choices: list[Choice], volumes: list[Volume]) -> str:
    shown = len({(choice.identity, choice.frame) for choice in choices})
    total = sum(len(volume.slices) for volume in volumes)
    series = ", ".join(sorted({volume.series for volume in volumes}, key=lambda number: (len(number), number)))
    return f"{shown} of {total} slices of series {series}"
