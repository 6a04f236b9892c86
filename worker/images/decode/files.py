"""Read stored files: their headers, and their bytes for the pixels (PS3.10)."""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from db.errors import Reason
from db.limits import MAX_INFLATED_BYTES
from db.studies.element_headers import begins_explicit
from db.studies.transfer_syntaxes import DEFLATED, EXPLICIT_VR_BIG_ENDIAN
from worker.images.decode.elements import Encoding, collect, element_header
from worker.images.decode.header import WANTED, Header
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from worker.images.decode.elements import Buffer

_PIECE = 1 << 20
#: Bytes of a file read for its header: CT and MR have 2 to 10 KiB, more with private protocols.
_BEGINNING = 16 << 10
_PREAMBLE = 128
_META = Encoding(implicit=False, little_endian=True)
_SYNTAX = 0x00020010


def read(path: Path) -> Header:
    """Read the header of a DICOM file (PS3.10). Raises Unreadable: not DICOM, no transfer syntax, header truncated."""
    with suppress(Unreadable, OSError):  # errors of the complete file are the ones that count
        return _read_beginning(path)
    with opened(path) as (syntax, encoding, buffer, start):
        values, pixels = collect(buffer, start, encoding, end=len(buffer), wanted=WANTED)
        return Header(path, syntax, encoding, values, pixels)


def _read_beginning(path: Path) -> Header:
    """Read a header within the first bytes of its file, at half the cost of a mapping. Raises Unreadable for others."""
    file = _regular(path)
    try:
        size, beginning = os.fstat(file).st_size, os.pread(file, _BEGINNING, 0)
    finally:
        os.close(file)
    syntax, start = _meta(beginning)
    if syntax in DEFLATED:
        raise Unreadable(Reason.TOO_LARGE, "the deflated file is too large")
    encoding = _encoding(syntax, beginning, start, size)
    values, pixels = collect(beginning, start, encoding, end=size, wanted=WANTED)
    return Header(path, syntax, encoding, values, pixels)


def _encoding(syntax: str, buffer: Buffer, start: int, end: int) -> Encoding:
    """Return the encoding of a data set, as the listener reads it: its bytes override the transfer syntax."""
    little = syntax != EXPLICIT_VR_BIG_ENDIAN
    return Encoding(not begins_explicit(buffer, start, little_endian=little, end=end), little)


@contextmanager
def opened(path: Path) -> Iterator[tuple[str, Encoding, mmap.mmap, int]]:
    """Open a file: its transfer syntax, encoding, bytes (inflated if deflated) and the offset of its data set.

    The bytes are mapped, not read: a header touches the first pages, a frame only its own. Raises Unreadable.
    """
    try:
        descriptor = _regular(path)
    except FileNotFoundError:
        raise Unreadable(Reason.MISSING, "the stored file is missing") from None
    with os.fdopen(descriptor, "rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise Unreadable(Reason.NOT_DICOM, "the file is empty") from None
    with mapped:
        syntax, start = _meta(mapped)
        buffer, start = (_inflated(mapped, start), 0) if syntax in DEFLATED else (mapped, start)
        yield syntax, _encoding(syntax, buffer, start, len(buffer)), buffer, start


def _regular(path: Path) -> int:
    """Return the descriptor of a regular file; raises Unreadable for a pipe, which would be waited for, or a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unreadable(Reason.NOT_DICOM, "the file is no regular file")
    return descriptor


def _meta(buffer: Buffer) -> tuple[str, int]:
    """Return the transfer syntax and the offset of the data set after the File Meta Information (group 0002)."""
    if buffer[_PREAMBLE : _PREAMBLE + 4] != b"DICM":
        raise Unreadable(Reason.NOT_DICOM, "the file is not a DICOM file (DICM prefix missing)")
    syntax, start = "", _PREAMBLE + 4
    while buffer[start : start + 2] == b"\2\0":
        tag, _, length, value = element_header(buffer, start, _META, len(buffer))
        start = value + length
        if tag == _SYNTAX:
            syntax = buffer[value:start].decode("latin-1").strip(" \0")
    if not syntax:
        raise Unreadable(Reason.NO_TRANSFER_SYNTAX, "the Transfer Syntax UID is missing")
    return syntax, start


def _inflated(buffer: Buffer, start: int) -> mmap.mmap:
    """Inflate a data set, twice: first to measure it, so that a bomb takes no memory. Raises Unreadable."""
    size = 0
    for piece in _inflated_pieces(buffer, start):
        size += len(piece)
        if size > MAX_INFLATED_BYTES:
            raise Unreadable(Reason.TOO_LARGE, f"the inflated data set exceeds {MAX_INFLATED_BYTES >> 20} MiB")
    inflated = mmap.mmap(-1, max(1, size))
    for piece in _inflated_pieces(buffer, start):
        inflated.write(piece)
    return inflated


def _inflated_pieces(buffer: Buffer, start: int) -> Iterator[bytes]:
    """Yield the inflated data set in pieces of at most 1 MiB. Raises Unreadable if it is damaged or truncated."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        # In pieces on both sides: zlib holds its output twice, and copies its unconsumed input.
        for begin in range(start, len(buffer), _PIECE):
            rest, piece = buffer[begin : begin + _PIECE], b""
            # After a full piece, output may remain although the input is consumed. The stream may be followed by a byte
            # of padding (PS3.5 A.5), which is never consumed.
            while not inflater.eof and (rest or len(piece) == _PIECE):
                yield (piece := inflater.decompress(rest, _PIECE))
                rest = inflater.unconsumed_tail
            if inflater.eof:
                return
    except zlib.error:
        raise Unreadable(Reason.MALFORMED, "the deflated data set is damaged") from None
    raise Unreadable(Reason.TRUNCATED, "the deflated data set is truncated")
