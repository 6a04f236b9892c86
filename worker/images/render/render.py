"""One frame as people would see it: 8-bit RGB at full size, with what was done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.images.decode.frames import GRAYSCALE, decode
from worker.images.render.colour import to_rgb
from worker.images.render.grayscale import to_grey

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from worker.images.decode.frames import Frame
    from worker.images.decode.header import Header
    from worker.images.render.windows import Window


def render(
    header: Header, index: int, *, window: Window | None = None, icc: bool = True
) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Frame *index* (from 0) as uint8 [rows, columns] or [rows, columns, 3], and its transform, fit for JSON.

    *window* replaces the header's own for grayscale frames. *header* is the frame's, where frames have their own.
    Raises Unreadable.
    """
    return shown(header, decode(header, index), window=window, icc=icc)


def shown(
    header: Header, frame: Frame, *, window: Window | None = None, icc: bool = True
) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Turn decoded samples into levels, as render does. Raises Unreadable."""
    if frame.photometric in GRAYSCALE:
        grey = to_grey(header, frame, window)
        return grey.levels, {"photometric": frame.photometric, **grey.steps}
    rgb, steps = to_rgb(header, frame, icc=icc)
    return rgb, {"photometric": header.text("PhotometricInterpretation"), **steps}
