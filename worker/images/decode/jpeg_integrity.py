"""Decode a Huffman-coded JPEG and check that its codestream was complete.

Decoders fill missing parts, grey or repeated, without reporting it, and after damage they continue with misaligned
bits. Two experiments detect it. Bytes appended to a complete stream are never read: an image that they change was
truncated. The end of a complete stream is read: an image that does not change when the end is replaced stopped early,
because the bits were misaligned before. Figures and limits: docs/decisions/pixel-safety-checks.md.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from db.errors import Reason
from worker.images.errors import Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy.typing as npt

    from worker.images.decode.codestream import Codestream

    #: From a codestream to the rows of its image, some at a time, from the top.
    Decode = Callable[[bytes], Iterable[npt.NDArray[Any]]]

_EOI = b"\xff\xd9"
#: Bytes without markers or a pattern.
_NOISE = bytes((73 * number * number + 41 * number) % 251 for number in range(1, 257))
#: Bytes replaced at the end: a few samples, or several empty blocks of six bits each. Four times as many in colour: the
#: last minimum coded unit has up to six blocks, some of them outside the image.
_TAIL, _FLAT_TAIL, _COLOUR_FACTOR = 16, 2, 4
#: Rows compared: the end of the stream codes the bottom rows, and no minimum coded unit is higher.
_BOTTOM_ROWS = 32
#: Replacements tried before an image counts as damaged; one that changes the image is enough to accept it.
_MAX_TRIES = 4
#: Equal samples at the end of the last row: decoders fill missing parts like that.
_FLAT_SAMPLES = 8
_DECODER_ERRORS = (Unreadable, ValueError, RuntimeError, OSError, SyntaxError)


def decode_completely(frame: bytes, stream: Codestream, decode: Decode) -> npt.NDArray[Any]:
    """Return the image that *decode* makes of a JPEG frame. Raises Unreadable if the frame is truncated or damaged."""
    body = frame[: frame.rfind(_EOI)].rstrip(b"\xff")
    image = _joined(decode(frame), stream.rows)
    flat = _ends_flat(image[-_BOTTOM_ROWS:])
    if (stream.progressive or flat) and not _decodes_to(image, decode, body + _NOISE + _EOI):
        raise Unreadable(Reason.TRUNCATED, "the compressed image is truncated")
    # The end of a progressive stream is the last bit of a few coefficients, which may change no pixel.
    tail = (_FLAT_TAIL if flat else _TAIL) * (_COLOUR_FACTOR if stream.samples > 1 else 1)
    if not stream.progressive and _stops_early(image, decode, body, stream.data, tail):
        raise Unreadable(Reason.UNDECODABLE, "the compressed image is damaged")
    return image


def _stops_early(image: npt.NDArray[Any], decode: Decode, body: bytes, data: int, tail: int) -> bool:
    """Return whether the image stays the same when its last *tail* bytes are replaced."""
    kept = body[:-tail].rstrip(b"\xff")
    # An image of one colour may have codes for nothing else: then no replacement is meaningful.
    if len(kept) - data <= tail or len(set(body[-_TAIL:])) == 1:
        return False
    ends = (_NOISE[start : start + tail] for start in range(0, _MAX_TRIES * tail, tail))
    return all(_has_bottom_of(image, decode, kept + end + _EOI) for end in ends)


def _joined(parts: Iterable[npt.NDArray[Any]], rows: int) -> npt.NDArray[Any]:
    top, image = 0, np.empty(0)
    for part in parts:
        if len(part) == rows:
            return part
        if not top:
            image = np.empty((rows, *part.shape[1:]), part.dtype)
        image[top : top + len(part)] = part
        top += len(part)
    return image


def _decodes_to(image: npt.NDArray[Any], decode: Decode, frame: bytes) -> bool:
    """Return whether *frame* gives the same image; a decoder error counts as the same."""
    top = 0
    try:
        for part in decode(frame):
            if not np.array_equal(part, image[top : top + len(part)]):
                return False
            top += len(part)
    except _DECODER_ERRORS:
        pass
    return True


def _has_bottom_of(image: npt.NDArray[Any], decode: Decode, frame: bytes) -> bool:
    """Return whether *frame* gives the bottom rows of *image*; False if it cannot be decoded."""
    try:
        last = deque(decode(frame), maxlen=1)
    except _DECODER_ERRORS:
        return False
    bottom = last[0][-_BOTTOM_ROWS:]
    return np.array_equal(bottom, image[-len(bottom) :])


def _ends_flat(bottom: npt.NDArray[Any]) -> bool:
    """Return whether the last samples are equal, in at least one of the colours."""
    last = bottom[-1, -_FLAT_SAMPLES:].reshape(-1, bottom.shape[2] if bottom.ndim > 2 else 1)  # noqa: PLR2004 - colours
    return bool((last == last[0]).all(axis=0).any())
