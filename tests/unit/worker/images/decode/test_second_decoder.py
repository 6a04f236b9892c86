"""A frame that the first decoder refuses is decoded by another one, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from worker.images.decode import compressed
from worker.images.decode.codestream import Codec
from worker.images.decode.files import read
from worker.images.decode.frames import decode
from worker.images.errors import Unreadable
from worker.images.study import images_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from worker.images.study import StoredInstance

SMOOTH = (1000 + 500 * np.sin(np.mgrid[0:64, 0:48][0] / 9)).astype(np.uint16)


def changed(stored: StoredInstance, change: Callable[[bytes], bytes]) -> StoredInstance:
    """Change the codestream of the only frame."""
    dataset = dcmread(stored.path)
    dataset.PixelData = encapsulate([change(get_frame(dataset.PixelData, 0, number_of_frames=1).rstrip(b"\0"))])
    dataset.save_as(stored.path)
    return stored


def padded(frame: bytes) -> bytes:
    """A zero before the end marker, as an encoder of many archives writes it."""
    end = frame.rfind(b"\xff\xd9")
    return frame[:end] + b"\0" + frame[end:]


def test_jpeg_ls_is_decoded_by_gdcm_where_pyjpegls_is_not_installed(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no wheel for Python 3.14."""
    monkeypatch.delitem(get_decoder(JPEGLSLossless)._available, "pyjpegls")

    image = images_of([store(SMOOTH, syntax=JPEGLSLossless)]).images[0]

    assert image.transform["decoder"] == "gdcm"


def test_jpeg_ls_with_padding_before_its_end_is_decoded(store: Any) -> None:
    stored = changed(store(SMOOTH, syntax=JPEGLSLossless), padded)

    frame = decode(read(stored.path), 0)

    assert np.array_equal(frame.samples, SMOOTH)
    assert frame.decoder == "gdcm"
    assert images_of([stored]).images[0].transform["decoder"] == "gdcm"


def test_first_decoder_is_named_too(store: Any) -> None:
    assert images_of([store(SMOOTH, syntax=JPEGLSLossless)]).images[0].transform["decoder"] == "pyjpegls"
    assert "decoder" not in images_of([store(SMOOTH)]).images[0].transform


@pytest.mark.parametrize("codec", [Codec.JPEG_2000, Codec.HTJ2K])
def test_jpeg_2000_is_decoded_if_the_first_decoder_is_missing(
    store: Any, monkeypatch: pytest.MonkeyPatch, codec: Codec
) -> None:
    stored = store(SMOOTH, syntax=JPEG2000Lossless)
    monkeypatch.setitem(compressed._DECODERS, Codec.JPEG_2000, (JPEG2000Lossless, "missing"))
    monkeypatch.setitem(compressed._OTHER_DECODERS, Codec.JPEG_2000, compressed._OTHER_DECODERS[codec])

    frame = decode(read(stored.path), 0)

    assert np.array_equal(frame.samples, SMOOTH)
    assert frame.decoder == compressed._OTHER_DECODERS[codec][0][1]


def test_frame_that_every_decoder_refuses_is_undecodable(store: Any) -> None:
    def damaged(frame: bytes) -> bytes:
        middle = len(frame) // 2
        return frame[:middle] + bytes(value ^ 0x55 for value in frame[middle : middle + 40]) + frame[middle + 40 :]

    with pytest.raises(Unreadable, match="undecodable"):
        decode(read(changed(store(SMOOTH, syntax=JPEGLSLossless), damaged).path), 0)


def test_child_that_ends_abnormally_leaves_the_frame_out(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = changed(store(SMOOTH, syntax=JPEGLSLossless), padded)
    monkeypatch.setattr("worker.images.decode.second_decoder.sys.executable", "/bin/false")

    with pytest.raises(Unreadable, match="undecodable"):
        decode(read(stored.path), 0)
