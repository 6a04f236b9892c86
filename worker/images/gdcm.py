"""GDCM for the one kind of frame pydicom cannot decode: JPEG with 12 bits a sample (sequential or progressive).

GDCM believes what it is told, so it is called only after the codestream's own size has been compared with the header's.
"""

from __future__ import annotations

from typing import cast

import gdcm
from pydicom.uid import JPEGExtended12Bit

from worker.images.errors import Unreadable

# Its complaints go to the process's standard error, without a time or an object's name.
for silence in (gdcm.Trace.WarningOff, gdcm.Trace.ErrorOff):
    silence()


def decode_12_bit(frame: bytes, *, rows: int, columns: int) -> bytes:
    """A 12-bit grayscale JPEG frame as native little endian uint16, rows x columns.

    Raises Unreadable where GDCM returns nothing or another amount.
    """
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(_encapsulated(frame))
    monochrome = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(monochrome))
    syntax = gdcm.TransferSyntax.GetTSType(str(JPEGExtended12Bit))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    image.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    # SWIG hands the bytes over as text.
    pixels = cast("str", image.GetBuffer() or "").encode("utf-8", "surrogateescape")
    if len(pixels) != rows * columns * 2:
        raise Unreadable("undecodable", "the 12-bit JPEG picture cannot be decoded")
    return pixels


def _encapsulated(frame: bytes) -> gdcm.DataElement:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    return element
