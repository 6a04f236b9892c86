"""One stored frame as a viewer needs it: its values before any window, and the table of its usual presentation.

The message of a frame is, in little-endian order:

    4 bytes   length of the description
    JSON      description, with blanks so that the pixels begin at a multiple of 8
    pixels    stored values of type `type` [rows, columns], or RGB of 8 bits [rows, columns, 3]
    levels    grayscale only: level, 0 to 255, of each possible stored value in the order of its unsigned bits
    values    with `modality_table` only: 32-bit float output of the Modality LUT for each possible stored value
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from db.errors import Reason
from worker.images.decode.files import read
from worker.images.decode.frames import decode
from worker.images.decode.image_pixel import GRAYSCALE
from worker.images.decode.patient_axes import edges, stated_axes
from worker.images.decode.samples import apply, stored_values
from worker.images.errors import Unreadable
from worker.images.render.colour import to_rgb
from worker.images.render.framing import pixel_aspect
from worker.images.render.grayscale import grey_function, modality_lut, padding_of
from worker.images.render.header_warnings import header_warnings
from worker.images.render.units import is_hounsfield
from worker.images.render.windows import Window, header_windows

if TYPE_CHECKING:
    from pathlib import Path

    from worker.images.decode.header import Header
    from worker.images.decode.samples import Frame

#: Pixels begin at a multiple of this.
_ALIGNMENT = 8
#: Windows of a header that are offered.
_MAX_WINDOWS = 8
#: Largest exact integer of a 16-bit type, and the types.
_WIDE = 2


def message_of(path: Path, index: int) -> bytes:
    """Return the message of frame *index* (from 0) of a stored file. Raises Unreadable."""
    whole = read(path)
    if not 0 <= index < whole.frames:
        raise Unreadable(Reason.MISSING, "the frame does not exist")
    frame = decode(whole, index)
    header = whole.of_frames([index])[index]
    described, blocks = _grey(header, frame) if frame.photometric in GRAYSCALE else _colour(header, frame)
    rows, columns = frame.samples.shape[:2]
    description = {"rows": rows, "columns": columns, "frames": whole.frames, **_geometry(header, index), **described}
    head = json.dumps(description).encode()
    head += b" " * (-(len(head) + 4) % _ALIGNMENT)
    return b"".join((struct.pack("<I", len(head)), head, *blocks))


def _grey(header: Header, frame: Frame) -> tuple[dict[str, Any], list[bytes]]:
    plain = _narrow(frame)
    levels_of, steps = grey_function(header, plain)
    every = np.arange(256**plain.samples.dtype.itemsize).astype(plain.samples.dtype.str.replace("i", "u"))
    every = every.view(plain.samples.dtype)
    rescale, _ = modality_lut(header)
    values = rescale(every.astype(np.int64))
    table = "ModalityLUTSequence" in header
    intercept, following = (float(each) for each in rescale(np.array([0, 1])))
    described = {
        "type": plain.samples.dtype.name,
        "inverted": frame.photometric == "MONOCHROME1",
        "padding": padding_of(header, plain),
        "slope": following - intercept,
        "intercept": intercept,
        "modality_table": table,
        "hounsfield": header.code("Modality") == "CT" and is_hounsfield(header),
        "window": _first_window(steps, rescale(plain.samples[:: _step(frame), :: _step(frame)].astype(np.int64))),
        "windows": [window.recorded() for window in header_windows(header)[:_MAX_WINDOWS]],
        **_problems(header, frame, steps),
    }
    levels = apply(levels_of, every.reshape(1, -1))
    blocks = [plain.samples.tobytes(), levels.tobytes()]
    return described, [*blocks, values.astype("<f4").tobytes()] if table else blocks


def _narrow(frame: Frame) -> Frame:
    """Return the frame with its stored values as little-endian integers of 8 or 16 bits. Raises Unreadable."""
    values = stored_values(frame.samples, frame)
    if values.dtype.itemsize > _WIDE:
        kind = np.int16 if values.dtype.kind == "i" else np.uint16
        limits = np.iinfo(kind)
        if values.min() < limits.min or values.max() > limits.max:
            raise Unreadable(Reason.UNSUPPORTED_PIXELS, "its values have more than 16 bits")
        values = values.astype(kind)
    order = values.dtype.newbyteorder("<")
    stored = min(frame.stored, 8 * values.dtype.itemsize)
    return replace(frame, samples=np.ascontiguousarray(values, order), left=0, right=0, stored=stored)


def _step(frame: Frame) -> int:
    """Return the distance of the pixels on which the range of values is measured."""
    return max(1, int((frame.samples.size / (1 << 18)) ** 0.5))


def _first_window(steps: dict[str, Any], values: Any) -> dict[str, Any]:
    """Return the window of the usual presentation; the range of the values if that is a table."""
    if "center" in steps:
        return {name: steps[name] for name in ("center", "width", "function")}
    return Window.between(float(values.min()), float(values.max())).recorded()


def _colour(header: Header, frame: Frame) -> tuple[dict[str, Any], list[bytes]]:
    rgb, steps = to_rgb(header, frame)
    return {"type": "rgb", **_problems(header, frame, steps)}, [rgb.tobytes()]


def _problems(header: Header, frame: Frame, steps: dict[str, Any]) -> dict[str, Any]:
    lossy = bool(frame.error) or header.text("LossyImageCompression") == "01"
    # The window of a header is used as it is, so a CT without Hounsfield units has no warning.
    return {"lossy": lossy, "warnings": header_warnings(header, "", steps)}


def _geometry(header: Header, index: int) -> dict[str, Any]:
    """Return the edges of the patient, the side that the header names, and the shape of a pixel."""
    stated = stated_axes(header, index)
    sides = (header.code(each) for each in ("FrameLaterality", "ImageLaterality", "Laterality"))
    return {
        "edges": edges(stated.axes) if stated.axes and not stated.problem else None,
        "orientation_problem": stated.problem,
        "laterality": next(filter(None, sides), ""),
        "view": header.code("ViewPosition"),
        "pixel_aspect": pixel_aspect(header),
    }
