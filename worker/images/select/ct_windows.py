"""Windows of a CT: by the body parts it shows, and by the convolution kernel of its reconstruction."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from worker.images.render.units import is_hounsfield
from worker.images.render.windows import Window, header_windows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.images.decode.header import Header

LUNG = Window(-600, 1500, name="lung")
MEDIASTINUM = Window(40, 400, name="mediastinum")
ABDOMEN = Window(50, 400, name="abdomen")
BRAIN = Window(40, 80, name="brain")
BONE = Window(400, 1800, name="bone")
SOFT_TISSUE = Window(40, 400, name="soft tissue")

#: Windows of a CT by body part, each with its share of every eight images.
_WINDOWS: dict[str, tuple[tuple[Window, int], ...]] = {
    "CHEST": ((MEDIASTINUM, 4), (LUNG, 4)),
    "HEAD": ((BRAIN, 6), (BONE, 2)),
    "ABDOMEN": ((ABDOMEN, 8),),
    "PELVIS": ((ABDOMEN, 5), (BONE, 3)),
    "SPINE": ((BONE, 5), (SOFT_TISSUE, 3)),
    "EXTREMITY": ((BONE, 5), (SOFT_TISSUE, 3)),
    "NECK": ((SOFT_TISSUE, 6), (BONE, 2)),
    "": ((SOFT_TISSUE, 8),),
}
#: The same for a sharp kernel, which shows bone and lung, and only noise in soft tissue.
_SHARP_WINDOWS: dict[str, tuple[tuple[Window, int], ...]] = {"CHEST": ((LUNG, 6), (BONE, 2)), "": ((BONE, 8),)}
#: Body parts that follow each other from head to feet, with their length in an adult in units of about 10 cm.
_LENGTHS = {"HEAD": 2.0, "NECK": 1.0, "CHEST": 3.0, "ABDOMEN": 4.0, "PELVIS": 1.5, "EXTREMITY": 8.0}

_SHARP_KERNEL = re.compile(
    r"""(?!F[CL])[A-Z]{1,2}[6-9]\d[A-Z]?        # Siemens: B60f to B80s, H70h, Hr60 to Hr68, Br64, Qr69, U90u
    | BL5\d[A-Z]?                               # Siemens: lung
    | (HD)?(BONE|BONEPLUS|EDGE|LUNG|ULTRA)      # GE
    | Y[CDE] | E | D | L                        # Philips: sharp, bone, lung
    | FC(3[0-5]|5\d|8\d)                        # Canon, Toshiba: bone, lung, inner ear
    | \w*(BONE|SHARP)\w*""",
    re.VERBOSE,
)


class WindowShare(NamedTuple):
    """A window, None for that of the header, and the number of images in which it is used."""

    window: Window | None
    images: int
    #: Part of an axial volume in which its images lie, from the feet (0) to the head (1).
    extent: tuple[float, float] = (0.0, 1.0)


def windows_for(header: Header, body_parts: Sequence[str], budget: int) -> list[WindowShare]:
    """Return the windows of a CT volume that shows *body_parts*, for *budget* images; *header* is of one slice.

    The header's own, if the values are not Hounsfield units, or the body part is unknown and the header has a window.
    """
    known = list(dict.fromkeys(part for part in body_parts if part in _WINDOWS and part))
    if not is_hounsfield(header) or (not known and header_windows(header)):
        return [WindowShare(None, budget)]
    sharp = is_sharp(header)
    extents = _extents(known)
    merged: dict[tuple[float, float], WindowShare] = {}
    for part in known or [""]:
        for window, share in _SHARP_WINDOWS.get(part, _SHARP_WINDOWS[""]) if sharp else _WINDOWS[part]:
            key = (round(window.center, -2), window.width)
            merged[key] = _joined(merged.get(key), WindowShare(window, share, extents.get(part, (0.0, 1.0))))
    return _within(budget, list(merged.values()))


def is_sharp(header: Header) -> bool:
    """Return whether a sharp convolution kernel was used, for bone or lung."""
    # Enhanced objects and Siemens's iterative kernels have several values: the kernel, then the strength.
    kernel = re.sub(r"[ ._-]", "", header.text("ConvolutionKernel").upper())
    return bool(_SHARP_KERNEL.fullmatch(kernel))


def _extents(parts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the extent of each part in a volume of several that follow each other; empty for any other volume."""
    if len(parts) < 2 or not set(parts) <= set(_LENGTHS):  # noqa: PLR2004 - a part fills its volume
        return {}
    total = sum(_LENGTHS[part] for part in parts)
    extents, top = {}, 1.0
    for part in (part for part in _LENGTHS if part in parts):
        bottom = top - _LENGTHS[part] / total
        extents[part], top = (max(0.0, bottom), top), bottom
    return extents


def _joined(first: WindowShare | None, other: WindowShare) -> WindowShare:
    """Return one share of two whose windows are nearly the same: the chest's and the abdomen's soft tissue."""
    if first is None:
        return other
    window = first.window if first.window == other.window else SOFT_TISSUE
    (low, high), (other_low, other_high) = first.extent, other.extent
    return WindowShare(window, first.images + other.images, (min(low, other_low), max(high, other_high)))


def _within(budget: int, plan: Sequence[WindowShare]) -> list[WindowShare]:
    """Return the shares scaled to *budget* images, at least one each; the first windows if there are fewer images."""
    if budget < len(plan):
        return [share._replace(images=1) for share in plan[:budget]]
    total = sum(share.images for share in plan)
    counts = [max(1, budget * share.images // total) for share in plan]
    while sum(counts) > budget:
        counts[counts.index(max(counts))] -= 1
    counts[0] += budget - sum(counts)
    return [share._replace(images=count) for share, count in zip(plan, counts, strict=True)]
