"""Decoded colour samples to 8-bit RGB: palettes, YCbCr, bit depths, ICC profiles (PS3.3 C.7.6.3.1, C.11.15)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms
from pydicom.pixels.processing import apply_color_lut, convert_color_space

from worker.images.errors import Unreadable

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.decode import Frame
    from worker.images.header import Header

#: Rows converted at a time: pydicom's conversion works in 32-bit floats.
_STRIP = 256
_PALETTE = tuple(
    f"{kind}{colour}PaletteColorLookupTable{part}"
    for colour in ("Red", "Green", "Blue")
    for kind, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))
)


def to_rgb(header: Header, frame: Frame, *, icc: bool = True) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """8-bit RGB [rows, columns, 3] of a decoded colour frame, and the steps that made it.

    *icc* converts to sRGB by the object's own profile. Raises Unreadable where a palette makes no sense.
    """
    steps: dict[str, Any] = {}
    if frame.photometric == "PALETTE COLOR":
        rgb, steps["palette"] = _palette(header, frame), True
    else:
        rgb = _eight_bits(frame.samples, frame.stored)
        if frame.photometric.startswith("YBR_FULL"):
            rgb, steps["colour_space"] = _from_ybr(rgb), "YBR_FULL to RGB"
    profile = _profile(header) if icc else b""
    if profile:
        rgb, steps["icc"] = _to_srgb(rgb, profile)
    return rgb, steps


def _eight_bits(samples: npt.NDArray[Any], stored: int) -> npt.NDArray[np.uint8]:
    """The most significant 8 of *stored* bits."""
    if stored <= 8:  # noqa: PLR2004 - bits
        scaled = samples if stored == 8 else samples * (255 // (2**stored - 1))  # noqa: PLR2004 - bits
        return scaled.astype(np.uint8, copy=False)
    return (samples >> (stored - 8)).astype(np.uint8)


def _from_ybr(samples: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    rgb = np.empty(samples.shape, np.uint8)
    for start in range(0, len(samples), _STRIP):
        rgb[start : start + _STRIP] = convert_color_space(samples[start : start + _STRIP], "YBR_FULL", "RGB")
    return rgb


def _palette(header: Header, frame: Frame) -> npt.NDArray[np.uint8]:
    """Look every possible sample up once, then every pixel in that table."""
    size = frame.samples.dtype.itemsize
    if size > 2:  # noqa: PLR2004 - a palette has at most 65 536 entries
        raise Unreadable("malformed", "a palette cannot have 32-bit indices")
    every = np.arange(256**size, dtype=f"u{size}")
    try:
        coloured = apply_color_lut(every, header.elements(*_PALETTE))
    except (ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise Unreadable("malformed", "the colour palette makes no sense") from error
    if coloured.dtype.itemsize > 1 and not header.encoding.little_endian and _PALETTE[1] in header:
        coloured = coloured.byteswap()  # pydicom reads the entries as little endian
    # Some write 8-bit entries into the low byte of 16.
    table = _eight_bits(coloured, 8 if coloured.max() < 256 else 16)  # noqa: PLR2004 - levels and bits
    index = frame.samples.view(f"{frame.samples.dtype.str[0]}u{size}")
    rgb = np.empty((*index.shape, 3), np.uint8)
    for start in range(0, len(index), _STRIP):
        np.take(table, index[start : start + _STRIP], axis=0, out=rgb[start : start + _STRIP])
    return rgb


def _profile(header: Header) -> bytes:
    """The object's ICC profile, or that of its first optical path."""
    paths = header.items("OpticalPathSequence")
    return header.blob("ICCProfile") or next((path.blob("ICCProfile") for path in paths), b"")


def _to_srgb(rgb: npt.NDArray[np.uint8], profile: bytes) -> tuple[npt.NDArray[np.uint8], str]:
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in (source.profile.profile_description or ""):
            return rgb, "already sRGB"
        target = ImageCms.createProfile("sRGB")
        image = ImageCms.profileToProfile(Image.fromarray(rgb), source, target)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return rgb, "profile cannot be used"
    return np.asarray(image), f"converted to sRGB from {source.profile.profile_description or 'its profile'}"
