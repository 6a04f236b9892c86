"""Choosing from whole-slide images: one small level as a whole, and tiles full of tissue (PS3.3 C.8.12.4).

A level of 100 000 x 100 000 pixels is never decoded: the whole is the largest level that fits, and where none fits a
sample of tiles decides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from worker.images.candidates import Choice
from worker.images.decode import decode
from worker.images.errors import Unreadable
from worker.images.render import render, shown
from worker.images.views import choose_frames
from worker.images.volumes import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from worker.images.candidates import Candidate
    from worker.images.header import Header

#: The largest level drawn as a whole, in pixels: 2048 x 2048, more than the model looks at.
_WHOLE = 1 << 22
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


def choose_tiles(candidates: Sequence[Candidate], budget: int) -> tuple[list[Choice], str]:
    """The slide as a whole, then tissue tiles; plain frames where an object is not tiled."""
    levels = sorted((item for item in candidates if _matrix(item.header)), key=lambda item: _pixels(item.header))
    if not levels:
        return choose_frames(candidates, budget)
    small = [item for item in levels if _pixels(item.header) <= _WHOLE]
    choices = [Choice(small[-1].identity, small[-1].header, 0, "the whole slide", whole=True)] if small else []
    detail = _detailed(levels)
    if detail not in small and min(detail.header.integer("Rows"), detail.header.integer("Columns")) >= _TILE:
        choices += _tissue(detail, small[-1].header if small else None, budget - len(choices))
    total = detail.header.frames
    return choices, f"{len(choices)} picture{'' if len(choices) == 1 else 's'} of a slide of {total} tiles"


def assemble(header: Header) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """A level as the one picture it is: every tile in its place, then rendered at once. Raises Unreadable."""
    rows, columns = _matrix(header) or (0, 0)
    places = _places(header)
    first = decode(header, 0)
    # Glass is white; a grayscale slide is fluorescence, and dark where there is nothing.
    empty = 255 if first.samples.ndim == 3 else 0  # noqa: PLR2004 - channels
    whole = np.full((rows, columns, *first.samples.shape[2:]), empty, first.samples.dtype)
    for frame, (top, left) in enumerate(places):
        tile = decode(header, frame).samples if frame else first.samples
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
    """Where each frame lies, top and left from 0, in the order of the frames."""
    rows, columns = _matrix(header) or (0, 0)
    height, width = header.integer("Rows"), header.integer("Columns")
    own = [] if header.text("DimensionOrganizationType") == "TILED_FULL" else header.by_frame()
    placed = [
        (
            frame.integer("RowPositionInTotalImagePixelMatrix") - 1,
            frame.integer("ColumnPositionInTotalImagePixelMatrix") - 1,
        )
        for frame in own
        if "RowPositionInTotalImagePixelMatrix" in frame
    ]
    full = [(top, left) for top in range(0, rows, height) for left in range(0, columns, width)]
    places = placed or full[: header.frames]
    if any(top < 0 or left < 0 for top, left in places):
        raise Unreadable("malformed", "tiles of the slide lie outside it")
    return places


def _tissue(detail: Candidate, whole: Header | None, budget: int) -> list[Choice]:
    """The tiles with most colour, spread over the slide: glass is grey, stained tissue is not."""
    places = _places(detail.header)
    scores = _seen_from_afar(whole, detail.header, places) if whole else _probed(detail.header, len(places))
    ranked = sorted(scores, key=lambda frame: -scores[frame])[: max(budget, round(len(scores) * _BEST))]
    best = sorted(frame for frame in ranked if scores[frame] >= _COLOURED * scores[ranked[0]])
    return [
        Choice(detail.identity, detail.header, best[place], f"tissue, tile {best[place] + 1} of {len(places)}")
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
    return {frame: float(_saturation(render(detail, frame)[0]).mean()) for frame in spread(tiles, _PROBED)}


def _saturation(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    if rgb.ndim == 2:  # noqa: PLR2004 - grayscale: tissue is what is darker than the glass
        return (255 - rgb).astype(np.float32)
    high, low = rgb.max(axis=2).astype(np.float32), rgb.min(axis=2).astype(np.float32)
    saturation: npt.NDArray[np.float32] = (high - low) / np.maximum(high, 1)
    return saturation
