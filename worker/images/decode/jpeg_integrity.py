"""Whether a Huffman-coded JPEG holds all of its image.

Its decoders make up what is missing, grey or repeated, and say nothing that could be asked for; they go on after damage
with whatever the bits happen to mean. Two experiments tell. What is added behind a whole stream is never read, so a
image that changes was cut short. The end of a whole stream is read, so an image that does not change when that end
is replaced stopped early: the bits went out of step before.
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

    #: A frame to the rows of its image, some at a time, from the top.
    Decode = Callable[[bytes], Iterable[npt.NDArray[Any]]]

_EOI = b"\xff\xd9"
#: Bytes that are no markers and have no pattern.
_NOISE = bytes((73 * number * number + 41 * number) % 251 for number in range(1, 257))
#: Bytes of the end that are replaced: a few samples, or several blocks of nothing, which take six bits each. In colour
#: more, as the last unit of coding has up to six blocks, and some of them outside the image.
_TAIL, _FLAT_TAIL, _COLOUR = 16, 2, 4
#: Rows compared: what is at the end of the stream is at the bottom. No unit of coding is higher.
_BOTTOM = 32
#: Ends tried before an image counts as damaged; one that differs is enough to clear it.
_TRIES = 4
#: Samples in a row without any difference: what decoders make up looks like that.
_FLAT = 8
_FAILURES = (Unreadable, ValueError, RuntimeError, OSError, SyntaxError)


def decoded_whole(frame: bytes, stream: Codestream, decode: Decode) -> npt.NDArray[Any]:
    """The image *decode* makes of a JPEG frame. Raises Unreadable where the frame does not hold all of it."""
    body = frame[: frame.rfind(_EOI)].rstrip(b"\xff")
    image = _joined(decode(frame), stream.rows)
    flat = _made_up(image[-_BOTTOM:])
    if (stream.progressive or flat) and not _gives(image, decode, body + _NOISE + _EOI):
        raise Unreadable(Reason.TRUNCATED, "the compressed image is truncated")
    # In a progressive stream the end is the last bit of a few coefficients, which may change no pixel.
    tail = (_FLAT_TAIL if flat else _TAIL) * (_COLOUR if stream.samples > 1 else 1)
    if not stream.progressive and _stops_early(image, decode, body, stream.data, tail):
        raise Unreadable(Reason.UNDECODABLE, "the compressed image is damaged")
    return image


def _stops_early(image: npt.NDArray[Any], decode: Decode, body: bytes, data: int, tail: int) -> bool:
    """Whether the image stays the same whatever its last *tail* bytes are."""
    kept = body[:-tail].rstrip(b"\xff")
    # An image of one colour may have codes for nothing else, so that no other end means anything.
    if len(kept) - data <= tail or len(set(body[-_TAIL:])) == 1:
        return False
    ends = (_NOISE[start : start + tail] for start in range(0, _TRIES * tail, tail))
    return all(_same(_bottom(decode, kept + end + _EOI), image) for end in ends)


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


def _gives(image: npt.NDArray[Any], decode: Decode, frame: bytes) -> bool:
    """Whether *frame* makes the same image; what cannot be decoded at all contradicts nothing."""
    top = 0
    try:
        for part in decode(frame):
            if not np.array_equal(part, image[top : top + len(part)]):
                return False
            top += len(part)
    except _FAILURES:
        pass
    return True


def _same(bottom: npt.NDArray[Any] | None, image: npt.NDArray[Any]) -> bool:
    return bottom is not None and np.array_equal(bottom, image[-len(bottom) :])


def _bottom(decode: Decode, frame: bytes) -> npt.NDArray[Any] | None:
    """The lowest rows of an image that may not be decodable: None then."""
    try:
        last = deque(decode(frame), maxlen=1)
    except _FAILURES:
        return None
    return last[0][-_BOTTOM:].copy()


def _made_up(bottom: npt.NDArray[Any]) -> bool:
    """Whether the last samples are all alike, in one of the colours at least."""
    last = bottom[-1, -_FLAT:].reshape(-1, bottom.shape[2] if bottom.ndim > 2 else 1)  # noqa: PLR2004 - colours
    return bool((last == last[0]).all(axis=0).any())
