"""Decode JPEG with 12 bits per sample (sequential or progressive) by GDCM: pydicom cannot.

GDCM does not check the sizes it is given, so it is called only after those of codestream and header were compared.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, cast

import gdcm
import numpy as np
from pydicom.uid import JPEGExtended12Bit

from db.errors import Reason
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

_STANDARD_ERROR = 2
# Messages of GDCM go to the process's standard error, without a time or the name of an object. Those of its libjpeg
# cannot be turned off: see quiet.
for turn_off in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
    turn_off()

_lock = Lock()


@contextmanager
def quiet() -> Iterator[None]:
    """Discard the standard error of the process while GDCM decodes: jpeg_integrity.py gives it damaged images."""
    with _lock, Path(os.devnull).open("w") as null:
        kept = os.dup(_STANDARD_ERROR)
        try:
            os.dup2(null.fileno(), _STANDARD_ERROR)
            yield
        finally:
            os.dup2(kept, _STANDARD_ERROR)
            os.close(kept)


def decode_12_bit(frame: bytes, *, rows: int, columns: int) -> npt.NDArray[np.uint16]:
    """Decode a 12-bit grayscale JPEG to uint16 [rows, columns]. Raises Unreadable if GDCM returns another size."""
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(_encapsulated(frame))
    monochrome = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(monochrome))
    syntax = gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # SWIG returns the bytes as text.
    with quiet():
        pixels = cast("str", image.GetBuffer() or "").encode("utf-8", "surrogateescape")
    if len(pixels) != rows * columns * 2:
        raise Unreadable(Reason.UNDECODABLE, "the 12-bit JPEG image cannot be decoded")
    return np.frombuffer(pixels, "<u2").reshape(rows, columns)


def _encapsulated(frame: bytes) -> gdcm.DataElement:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    return element
