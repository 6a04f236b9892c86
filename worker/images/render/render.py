"""Render one frame at full size to 8-bit levels or RGB, and record the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from worker.images.decode.frames import decode
from worker.images.decode.image_pixel import GRAYSCALE
from worker.images.render.colour import to_rgb
from worker.images.render.grayscale import to_grey

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from worker.images.decode.header import Header
    from worker.images.decode.samples import Frame
    from worker.images.render.windows import Window


def render(
    header: Header, index: int, *, window: Window | None = None, icc: bool = True
) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Render frame *index* (from 0) to uint8 [rows, columns] or [rows, columns, 3]; also return the steps, for JSON.

    *window* replaces the header's own for grayscale frames. *header* is the frame's, if frames have their own.
    Raises Unreadable.
    """
    return render_samples(header, decode(header, index), window=window, icc=icc)


def render_samples(
    header: Header, frame: Frame, *, window: Window | None = None, icc: bool = True
) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Render decoded samples, like `render`. Raises Unreadable."""
    decoder = {"decoder": frame.decoder} if frame.decoder else {}
    if frame.photometric in GRAYSCALE:
        levels, steps = to_grey(header, frame, window)
        return levels, {**decoder, "photometric": frame.photometric, **steps}
    rgb, steps = to_rgb(header, frame, icc=icc)
    return rgb, {**decoder, "photometric": header.text("PhotometricInterpretation"), **steps}
