"""Choosing from whole-slide images: one small level as a whole, and tiles full of tissue (PS3.3 C.8.12.4).

A level of 100 000 x 100 000 pixels is never decoded: the whole is the largest level that fits, and where none fits a
sample of tiles decides.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from db.errors import Reason
from worker.images.decode.frames import decoding
from worker.images.errors import Unreadable
from worker.images.render.render import shown
from worker.images.select.candidates import Choice, series_of
from worker.images.select.sampling import choose_frames, spread

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from worker.images.decode.header import Header
    from worker.images.select.candidates import Basis, Candidate

#: The largest level drawn as a whole, in pixels: 2048 x 2048, more than the model looks at.
_WHOLE = 1 << 22
#: Tiles of one level that are put together; its own tiles are seldom smaller than 64 x 64.
_ASSEMBLED = 4096
#: Tiles smaller than this, in pixels a side, show nothing that the whole does not.
_TILE = 64
#: Tiles decoded to look for tissue where no level fits as a whole.
_PROBED = 48
#: The resolution tiles are taken from, in mm a pixel: about what a 10x objective shows.
_RESOLUTION = 0.001
#: Share of the tiles, best first, from which those shown are spread.
_BEST = 0.25
#: A tile with less than this share of the best one's colour is mostly glass.
_COLOURED = 0.3


def choose_tiles(candidates: Sequence[Candidate], budget: int) -> tuple[list[Choice], Basis]:
    """Each slide as a whole, then its tissue tiles; plain frames where no object is tiled."""
    slides: dict[str, list[Candidate]] = defaultdict(list)
    for item in candidates:
        if _matrix(item.header):
            # Levels of one slide share a frame of reference; series may hold one level or all.
            slides[item.header.text("FrameOfReferenceUID") or item.header.text("SeriesInstanceUID")].append(item)
    if not slides:
        return choose_frames(candidates, budget)
    choices: list[Choice] = []
    totals: dict[str, tuple[str, int]] = {}
    several = list(slides.values())[:budget]
    for number, levels in enumerate(several):
        share = budget // len(several) + (number < budget % len(several))
        some, total = _of_one_slide(levels, share)
        choices += some
        totals |= {choice.identity: (series_of(levels[0].header), total) for choice in some}
    passed_over = len(slides) - len(several)
    return choices, lambda drawn: _basis(drawn, totals, passed_over)


def _of_one_slide(candidates: Sequence[Candidate], budget: int) -> tuple[list[Choice], int]:
    levels = sorted(candidates, key=lambda item: _pixels(item.header))
    series = series_of(levels[0].header)
    small = [item for item in levels if _pixels(item.header) <= _WHOLE]
    whole = f"overview of the slide of series {series}"
    choices = [Choice(small[-1].identity, small[-1].header, 0, whole, whole=True)] if small else []
    detail = _detailed(levels)
    if detail not in small and min(detail.header.integer("Rows"), detail.header.integer("Columns")) >= _TILE:
        try:
            choices += _tissue(detail, small[-1].header if small else None, budget - len(choices))
        except Unreadable:
            # To be drawn, it fails again, and is left out with its reason.
            choices.append(Choice(detail.identity, detail.header, 0, whole, whole=True))
    return choices, detail.header.frames


def _basis(choices: Iterable[Choice], totals: dict[str, tuple[str, int]], passed_over: int) -> str:
    """How many images of which slides of how many tiles."""
    counted: dict[tuple[str, int], int] = defaultdict(int)
    for choice in choices:
        counted[totals[choice.identity]] += 1
    sentences = [
        f"{count} image{'' if count == 1 else 's'} from the slide of series {series} ({total} tiles)"
        for (series, total), count in counted.items()
    ]
    return "; ".join(sentences) + (f"; {passed_over} further slides not shown" if passed_over else "")


def assemble(header: Header) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """A level as the one image it is: every tile in its place, then rendered at once. Raises Unreadable."""
    rows, columns = _matrix(header) or (0, 0)
    places = _places(header)
    if len(places) > _ASSEMBLED or rows * columns > _WHOLE:
        raise Unreadable(
            Reason.TOO_LARGE, f"the slide overview exceeds {_ASSEMBLED} tiles or {_WHOLE >> 20} million pixels"
        )
    with decoding(header) as frame:
        first = frame(0)
        # Glass is white; a grayscale slide is fluorescence, and dark where there is nothing.
        empty = 255 if first.samples.ndim == 3 else 0  # noqa: PLR2004 - channels
        whole = np.full((rows, columns, *first.samples.shape[2:]), empty, first.samples.dtype)
        for number, (top, left) in enumerate(places):
            tile = frame(number).samples if number else first.samples
            room = whole[top : top + len(tile), left : left + tile.shape[1]]
            room[:] = tile[: len(room), : room.shape[1]]
    levels, steps = shown(header, replace(first, samples=whole))
    return levels, {**steps, "assembled": len(places)}


def _matrix(header: Header) -> tuple[int, int] | None:
    rows, columns = header.integer("TotalPixelMatrixRows"), header.integer("TotalPixelMatrixColumns")
    return (rows, columns) if rows > 0 and columns > 0 else None


def _pixels(header: Header) -> int:
    rows, columns = _matrix(header) or (0, 0)
    return rows * columns


def _detailed(levels: Sequence[Candidate]) -> Candidate:
    def distance(item: Candidate) -> float:
        spacing = item.header.shared().number("PixelSpacing")
        return abs(np.log(spacing / _RESOLUTION)) if spacing and spacing > 0 else 0.0

    return min(reversed(levels), key=distance)


def _places(header: Header) -> list[tuple[int, int]]:
    """Where each frame lies, top and left from 0, in the order of the frames.

    Raises Unreadable where there are more frames than places, or a place outside the slide.
    """
    rows, columns = _matrix(header) or (0, 0)
    height, width = header.integer("Rows"), header.integer("Columns")
    tops, lefts = range(0, rows, height), range(0, columns, width)
    planes = max(1, header.integer("NumberOfOpticalPaths", 1)) * max(
        1, header.integer("TotalPixelMatrixFocalPlanes", 1)
    )
    if header.text("DimensionOrganizationType") != "TILED_FULL":
        placed = [
            (
                frame.integer("RowPositionInTotalImagePixelMatrix") - 1,
                frame.integer("ColumnPositionInTotalImagePixelMatrix") - 1,
            )
            for frame in header.by_frame()
            if "RowPositionInTotalImagePixelMatrix" in frame
        ]
        if any(not (0 <= top < rows and 0 <= left < columns) for top, left in placed):
            raise Unreadable(Reason.MALFORMED, "tile positions lie outside the slide")
        if placed:
            return placed
    if header.frames > len(tops) * len(lefts) * planes:
        raise Unreadable(Reason.MALFORMED, "the slide declares more tiles than fit into it")
    # One after the other: all the places there are can be billions. Tiles after the first plane have none of their own.
    return list(islice(((top, left) for top in tops for left in lefts), header.frames))


def _tissue(detail: Candidate, whole: Header | None, budget: int) -> list[Choice]:
    """The tiles with most colour, spread over the slide: glass is grey, stained tissue is not."""
    places = _places(detail.header)
    try:
        scores = _seen_from_afar(whole, detail.header, places) if whole else _probed(detail.header, len(places))
    except Unreadable:
        return []  # the level that cannot be read is found out when it is drawn; the next round chooses without it
    ranked = sorted(scores, key=lambda frame: -scores[frame])[: max(budget, round(len(scores) * _BEST))]
    best = sorted(frame for frame in ranked if scores[frame] >= _COLOURED * scores[ranked[0]])
    where = f"of {len(places)} of series {series_of(detail.header)}"
    return [
        Choice(detail.identity, detail.header, best[place], f"tissue tile {best[place] + 1} {where}")
        for place in spread(len(best), budget)
    ]


def _seen_from_afar(whole: Header, detail: Header, places: list[tuple[int, int]]) -> dict[int, float]:
    colour = _saturation(assemble(whole)[0])
    scale_y, scale_x = len(colour) / (_matrix(detail) or (1, 1))[0], colour.shape[1] / (_matrix(detail) or (1, 1))[1]
    height, width = detail.integer("Rows") * scale_y, detail.integer("Columns") * scale_x
    return {
        frame: float(
            colour[
                int(top * scale_y) : int(top * scale_y + height) + 1,
                int(left * scale_x) : int(left * scale_x + width) + 1,
            ].mean()
        )
        for frame, (top, left) in enumerate(places)
    }


def _probed(detail: Header, tiles: int) -> dict[int, float]:
    scores = dict.fromkeys(spread(tiles, _PROBED), 0.0)
    with decoding(detail) as frame:
        for number in scores:
            with suppress(Unreadable):  # a damaged tile is no tissue
                scores[number] = float(_saturation(shown(detail, frame(number))[0]).mean())
    return scores


def _saturation(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    if rgb.ndim == 2:  # noqa: PLR2004 - grayscale: tissue is what is darker than the glass
        return (255 - rgb).astype(np.float32)
    high, low = rgb.max(axis=2).astype(np.float32), rgb.min(axis=2).astype(np.float32)
    saturation: npt.NDArray[np.float32] = (high - low) / np.maximum(high, 1)
    return saturation
