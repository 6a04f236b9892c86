"""Select from whole-slide images: one small level assembled as an overview, and tiles of tissue (PS3.3 C.8.12.4).

A level of 100 000 x 100 000 pixels is never decoded: the overview is the largest level that fits; if none fits, a
sample of tiles is decoded to find tissue.
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
from worker.images.render.render import render_samples
from worker.images.select.candidates import Selection, series_of
from worker.images.select.sampling import even_shares, evenly, select_frames

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from worker.images.decode.header import Header, Keyword
    from worker.images.select.candidates import Basis, Candidate

#: Pixels of a level assembled as the overview: 2048 x 2048, more than the model uses.
_MAX_OVERVIEW_PIXELS = 1 << 22
#: Tiles assembled; the tiles of such a level are seldom smaller than 64 x 64.
_MAX_ASSEMBLED_TILES = 4096
#: Pixels of a tile's side below which it shows nothing beyond the overview.
_MIN_TILE_SIDE = 64
#: Tiles decoded to find tissue if no level fits as the overview.
_PROBED_TILES = 48
#: Resolution of the tiles, in mm per pixel: about that of a 10x objective.
_RESOLUTION = 0.001
#: Share of the tiles, best first, from which the selection is sampled.
_BEST = 0.25
#: Share of the best tile's saturation below which a tile is mostly glass.
_MIN_SATURATION = 0.3


def select_tiles(candidates: Sequence[Candidate], budget: int) -> tuple[list[Selection], Basis]:
    """Select an overview of each slide, then its tissue tiles; plain frames if no object is tiled."""
    slides: dict[str, list[Candidate]] = defaultdict(list)
    for item in candidates:
        if _matrix(item.header):
            # Levels of one slide share a frame of reference; series may hold one level or all.
            slides[item.header.text("FrameOfReferenceUID") or item.header.text("SeriesInstanceUID")].append(item)
    if not slides:
        return select_frames(candidates, budget)
    selections: list[Selection] = []
    totals: dict[str, tuple[str, int]] = {}
    several = list(slides.values())[:budget]
    for levels, share in zip(several, even_shares(budget, len(several)), strict=True):
        some, total = _of_one_slide(levels, share)
        selections += some
        totals |= {selection.sop_instance_uid: (series_of(levels[0].header), total) for selection in some}
    not_shown = len(slides) - len(several)
    return selections, lambda shown: _basis(shown, totals, not_shown)


def _of_one_slide(candidates: Sequence[Candidate], budget: int) -> tuple[list[Selection], int]:
    levels = sorted(candidates, key=lambda item: _pixels(item.header))
    series = series_of(levels[0].header)
    small = [item for item in levels if _pixels(item.header) <= _MAX_OVERVIEW_PIXELS]
    whole = f"overview of the slide of series {series}"
    selections = [Selection(small[-1].sop_instance_uid, small[-1].header, 0, whole, assembled=True)] if small else []
    detail = _detailed(levels)
    if detail not in small and min(detail.header.integer("Rows"), detail.header.integer("Columns")) >= _MIN_TILE_SIDE:
        try:
            selections += _tissue(detail, small[-1].header if small else None, budget - len(selections))
        except Unreadable:
            # Rendering fails again, and the object is left out with its reason.
            selections.append(Selection(detail.sop_instance_uid, detail.header, 0, whole, assembled=True))
    return selections, detail.header.frames


def _basis(selections: Iterable[Selection], totals: dict[str, tuple[str, int]], not_shown: int) -> str:
    """Return the basis: number of images, the slides they come from, and the number of tiles."""
    counted: dict[tuple[str, int], int] = defaultdict(int)
    for selection in selections:
        counted[totals[selection.sop_instance_uid]] += 1
    sentences = [
        f"{count} image{'' if count == 1 else 's'} from the slide of series {series} ({total} tiles)"
        for (series, total), count in counted.items()
    ]
    return "; ".join(sentences) + (f"; {not_shown} further slides not shown" if not_shown else "")


def assemble(header: Header) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Assemble the tiles of a level into one image and render it. Raises Unreadable."""
    rows, columns = _matrix(header) or (0, 0)
    positions = _positions(header)
    if len(positions) > _MAX_ASSEMBLED_TILES or rows * columns > _MAX_OVERVIEW_PIXELS:
        raise Unreadable(
            Reason.TOO_LARGE,
            f"the slide overview exceeds {_MAX_ASSEMBLED_TILES} tiles or {_MAX_OVERVIEW_PIXELS >> 20} million pixels",
        )
    with decoding(header) as frame:
        first = frame(0)
        # Glass is white; a grayscale slide is fluorescence, whose background is black.
        empty = 255 if first.samples.ndim == 3 else 0  # noqa: PLR2004 - channels
        level = np.full((rows, columns, *first.samples.shape[2:]), empty, first.samples.dtype)
        for number, (top, left) in enumerate(positions):
            tile = frame(number).samples if number else first.samples
            area = level[top : top + len(tile), left : left + tile.shape[1]]
            area[:] = tile[: len(area), : area.shape[1]]
    levels, steps = render_samples(header, replace(first, samples=level))
    return levels, {**steps, "assembled": len(positions)}


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


def _positions(header: Header) -> list[tuple[int, int]]:
    """Return the top and left of each frame, from 0. Raises Unreadable if one is outside the slide or has no place."""
    rows, columns = _matrix(header) or (0, 0)
    tops, lefts = range(0, rows, header.integer("Rows")), range(0, columns, header.integer("Columns"))
    paths = max(1, header.integer("NumberOfOpticalPaths", 1))
    planes = max(1, header.integer("TotalPixelMatrixFocalPlanes", 1))
    if positions := _declared_positions(header):
        if any(not (0 <= top < rows and 0 <= left < columns) for top, left in positions):
            raise Unreadable(Reason.MALFORMED, "tile positions lie outside the slide")
        return positions
    if header.frames > len(tops) * len(lefts) * paths * planes:
        raise Unreadable(Reason.MALFORMED, "the slide declares more tiles than fit into it")
    # An iterator: all positions can be billions. Frames beyond the first plane have no position here.
    return list(islice(((top, left) for top in tops for left in lefts), header.frames))


def _declared_positions(header: Header) -> list[tuple[int, int]]:
    """Return the positions of the frames' functional groups; [] if the tiles form a full grid."""
    if header.text("DimensionOrganizationType") == "TILED_FULL":
        return []
    row: Keyword = "RowPositionInTotalImagePixelMatrix"
    column: Keyword = "ColumnPositionInTotalImagePixelMatrix"
    return [(frame.integer(row) - 1, frame.integer(column) - 1) for frame in header.by_frame() if row in frame]


def _tissue(detail: Candidate, overview: Header | None, budget: int) -> list[Selection]:
    """Select the most saturated tiles, spread over the slide: glass is grey, stained tissue is not."""
    positions = _positions(detail.header)
    try:
        tiles = len(positions)
        scores = _saturation_in(overview, detail.header, positions) if overview else _probe(detail.header, tiles)
    except Unreadable:
        return []  # the damaged level fails when it is rendered, and the next round selects without it
    ranked = sorted(scores, key=lambda frame: -scores[frame])[: max(budget, round(len(scores) * _BEST))]
    best = sorted(frame for frame in ranked if scores[frame] >= _MIN_SATURATION * scores[ranked[0]])
    where = f"of {len(positions)} of series {series_of(detail.header)}"
    return [
        Selection(detail.sop_instance_uid, detail.header, best[index], f"tissue tile {best[index] + 1} {where}")
        for index in evenly(len(best), budget)
    ]


def _saturation_in(overview: Header, detail: Header, positions: list[tuple[int, int]]) -> dict[int, float]:
    saturation = _saturation(assemble(overview)[0])
    rows, columns = _matrix(detail) or (1, 1)
    scale_y, scale_x = len(saturation) / rows, saturation.shape[1] / columns
    height, width = detail.integer("Rows") * scale_y, detail.integer("Columns") * scale_x
    scores = {}
    for frame, (top, left) in enumerate(positions):
        rows_of_tile = slice(int(top * scale_y), int(top * scale_y + height) + 1)
        columns_of_tile = slice(int(left * scale_x), int(left * scale_x + width) + 1)
        scores[frame] = float(saturation[rows_of_tile, columns_of_tile].mean())
    return scores


def _probe(detail: Header, tiles: int) -> dict[int, float]:
    scores = dict.fromkeys(evenly(tiles, _PROBED_TILES), 0.0)
    with decoding(detail) as frame:
        for number in scores:
            with suppress(Unreadable):  # a damaged tile does not count as tissue
                scores[number] = float(_saturation(render_samples(detail, frame(number))[0]).mean())
    return scores


def _saturation(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    if rgb.ndim == 2:  # noqa: PLR2004 - grayscale: tissue is darker than glass
        return (255 - rgb).astype(np.float32)
    high, low = rgb.max(axis=2).astype(np.float32), rgb.min(axis=2).astype(np.float32)
    saturation: npt.NDArray[np.float32] = (high - low) / np.maximum(high, 1)
    return saturation
