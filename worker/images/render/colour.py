"""Render colour samples as 8-bit RGB: palettes, YCbCr, bit depths, ICC profiles (PS3.3 C.7.6.3.1, C.11.15)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms
from pydicom.pixels.processing import convert_color_space

from db.errors import Reason
from worker.images.decode.samples import apply, in_strips, stored_values
from worker.images.errors import Unreadable
from worker.images.render.lookup_tables import Table, table_in

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.decode.header import Header, Keyword
    from worker.images.decode.samples import Frame

#: Descriptor, data and segmented data of each palette colour.
_PALETTES: tuple[tuple[Keyword, Keyword, Keyword], ...] = (
    ("RedPaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
     "SegmentedRedPaletteColorLookupTableData"),
    ("GreenPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableData",
     "SegmentedGreenPaletteColorLookupTableData"),
    ("BluePaletteColorLookupTableDescriptor", "BluePaletteColorLookupTableData",
     "SegmentedBluePaletteColorLookupTableData"),
)  # fmt: skip
#: Pixels on which the colour space is examined.
_MAX_SAMPLE = 1 << 16
#: Grey read in the wrong colour space: green stays near the middle, red is far from it; share of such pixels.
_MIDDLE, _MAX_GREEN, _MIN_RED, _MIN_SHARE = 128, 10, 40, 0.5
_WRONG_SPACE = "black, grey and white appear as green, turquoise or magenta, as if YCbCr and RGB were exchanged"


def to_rgb(header: Header, frame: Frame, *, icc: bool = True) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Render a decoded colour frame as 8-bit RGB [rows, columns, 3]; also return the steps.

    *icc* converts to sRGB by the object's own profile. Raises Unreadable if a palette is invalid.
    """
    steps: dict[str, Any] = {}
    if frame.photometric == "PALETTE COLOR":
        rgb, steps = _palette(header, frame)
    else:
        rgb = _eight_bits(frame)
        if frame.photometric.startswith("YBR_FULL"):
            rgb, steps["colour_space"] = in_strips(_from_ybr, rgb), "YBR_FULL to RGB"
        if _is_exchanged(rgb):
            steps["colour_problem"] = _WRONG_SPACE
    if problem := frame.colour_problem or _stale_label(frame):
        steps["colour_problem"] = problem
    if icc and (profile := _profile(header)):
        rgb, steps["icc"] = _to_srgb(rgb, profile)
    return rgb, steps


def _stale_label(frame: Frame) -> str:
    """Return the contradiction of samples that keep a label of JPEG 2000 although they never were or no longer are."""
    stale = frame.photometric in ("YBR_RCT", "YBR_ICT")
    return f"the samples have no component transform, which contradicts {frame.photometric}" if stale else ""


def _is_exchanged(rgb: npt.NDArray[np.uint8]) -> bool:
    """Return whether most pixels have the colours of grey samples in the other colour space than the declared one.

    Grey v in RGB, read as YCbCr, has the green 135 - 0.06 v; in YCbCr, read as RGB, green and blue are 128.
    """
    step = max(1, int((rgb.size / 3 / _MAX_SAMPLE) ** 0.5))
    red, green = (np.abs(rgb[::step, ::step, channel].astype(np.int16) - _MIDDLE) for channel in (0, 1))
    return bool(np.mean((green <= _MAX_GREEN) & (red >= _MIN_RED)) > _MIN_SHARE)


def _eight_bits(frame: Frame) -> npt.NDArray[np.uint8]:
    """Return the most significant 8 of the stored bits; fewer are scaled to 0 to 255."""
    if frame.stored == 8 and not frame.left and frame.samples.dtype == np.uint8:  # noqa: PLR2004 - bits
        return frame.samples
    white = 2**frame.stored - 1

    def scaled(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # Colours have no sign; some headers declare one.
        return _scaled(stored_values(samples, frame).astype(np.int64) & white, frame.stored)

    return apply(scaled, frame.samples)


def _scaled(values: npt.NDArray[np.int64], bits: int) -> npt.NDArray[np.uint8]:
    levels = values >> (bits - 8) if bits >= 8 else values * 255 // (2**bits - 1)  # noqa: PLR2004 - bits
    return levels.astype(np.uint8)


def _from_ybr(samples: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # pydicom works in 32-bit floats.
    return convert_color_space(samples, "YBR_FULL", "RGB").astype(np.uint8, copy=False)


def _palette(header: Header, frame: Frame) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """Apply the palette to every possible sample once, then look every pixel up; also return the steps."""
    if frame.samples.dtype.itemsize > 2:  # noqa: PLR2004 - a palette has at most 65 536 entries
        raise Unreadable(Reason.MALFORMED, "32-bit palette indices are not supported")
    signed = header.integer("PixelRepresentation") == 1
    tables = [table_in(header, head, data, signed=signed, segmented=parts) for head, data, parts in _PALETTES]
    bits, declared = _bits(tables), max(table.bits for table in tables)

    def coloured(samples: npt.NDArray[Any]) -> npt.NDArray[Any]:
        values = stored_values(samples, frame)
        return np.stack([_scaled(table.look_up(values), bits) for table in tables], axis=-1)

    steps: dict[str, Any] = {"palette": True}
    if 8 < bits < declared:  # noqa: PLR2004 - bytes in words are common, and certain
        steps["palette_bits"] = f"{bits} of {declared}"
    return apply(coloured, frame.samples), steps


def _bits(tables: list[Table]) -> int:
    """Return the bits of the entries: some encoders write 8-bit or 12-bit entries into the low bits of 16."""
    held, declared = max(table.held for table in tables), max(table.bits for table in tables)
    # A dark palette is no narrow one: less than a sixteenth of white cannot be meant.
    return max(8, held) if held <= max(8, declared - 4) else declared


def _profile(header: Header) -> bytes:
    """Return the object's ICC profile, or that of its first optical path; empty if there is none."""
    paths = header.items("OpticalPathSequence")
    return header.raw("ICCProfile") or next((path.raw("ICCProfile") for path in paths), b"")


def _to_srgb(rgb: npt.NDArray[np.uint8], profile: bytes) -> tuple[npt.NDArray[np.uint8], str]:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (source.profile.profile_description or ""):
            return rgb, "already sRGB"
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")

        def converted(strip: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
            image = ImageCms.applyTransform(Image.fromarray(np.ascontiguousarray(strip)), transform)
            return np.asarray(image)

        return in_strips(converted, rgb), "converted to sRGB"
    except (ImageCms.PyCMSError, OSError, ValueError):
        return rgb, "profile cannot be used"
