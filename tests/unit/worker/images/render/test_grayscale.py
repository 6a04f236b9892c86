from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from worker.images.decode.files import read
from worker.images.decode.samples import Frame
from worker.images.render.grayscale import to_grey
from worker.images.render.render import render
from worker.images.render.windows import Window

if TYPE_CHECKING:
    import numpy.typing as npt

    from worker.images.study import StoredInstance


def drawn(stored: StoredInstance, window: Window | None = None) -> npt.NDArray[np.uint8]:
    return render(read(stored.path), 0, window=window)[0]


def at(levels: npt.NDArray[np.uint8], ramp: npt.NDArray[np.int16], value: int) -> int:
    return int(levels[ramp == value][0])


def test_linear_window_is_black_at_its_lower_and_white_at_its_upper_end(
    store: Any, ramp: npt.NDArray[np.int16]
) -> None:
    levels = drawn(store(ramp, WindowCenter=40, WindowWidth=400))

    # PS3.3 C.11.2.1.2.1: black up to c - 0.5 - (w - 1) / 2, white above c - 0.5 + (w - 1) / 2.
    assert [at(levels, ramp, value) for value in (-161, -160, 239, 300)] == [0, 0, 255, 255]
    assert at(levels, ramp, 40) in (127, 128)


def test_linear_exact_and_sigmoid_windows_follow_the_standard(store: Any, ramp: npt.NDArray[np.int16]) -> None:
    exact = drawn(store(ramp, WindowCenter=0, WindowWidth=100, VOILUTFunction="LINEAR_EXACT"))
    sigmoid = drawn(store(ramp, WindowCenter=0, WindowWidth=100, VOILUTFunction="SIGMOID"))

    assert (at(exact, ramp, -50), at(exact, ramp, 25)) == (0, 191)
    assert at(sigmoid, ramp, 25) == int(255 / (1 + np.exp(-4 * 25 / 100)))


def test_rescale_precedes_the_window(store: Any, ramp: npt.NDArray[np.int16]) -> None:
    stored = store(ramp, RescaleSlope=2, RescaleIntercept=-100, WindowCenter=0, WindowWidth=2)

    levels = drawn(stored, Window(0, 200, "LINEAR_EXACT"))

    assert (at(levels, ramp, 0), at(levels, ramp, 50), at(levels, ramp, 100)) == (0, 127, 255)


def test_monochrome1_renders_low_values_white(store: Any, ramp: npt.NDArray[np.int16]) -> None:
    levels = drawn(store(ramp, PhotometricInterpretation="MONOCHROME1", WindowCenter=1000, WindowWidth=2000))

    assert at(levels, ramp, -1000) == 255
    assert at(levels, ramp, 3000) == 0


def test_padding_is_black_in_monochrome1(store: Any, ramp: npt.NDArray[np.int16]) -> None:
    levels = drawn(
        store(
            ramp,
            PhotometricInterpretation="MONOCHROME1",
            WindowCenter=1000,
            WindowWidth=2000,
            PixelPaddingValue=-1024,
            PixelPaddingRangeLimit=-1020,
        )
    )

    assert [at(levels, ramp, value) for value in (-1024, -1020, -1019)] == [0, 0, 255]


def test_window_that_hides_the_image_is_skipped(store: Any, ramp: npt.NDArray[np.int16]) -> None:
    _, transform = render(read(store(ramp, WindowCenter=[30000, 500], WindowWidth=[1, 1000]).path), 0)

    assert (transform["center"], transform["width"]) == (500, 1000)


def test_percentiles_replace_a_missing_window(store: Any, ramp: npt.NDArray[np.int16]) -> None:
    spoiled = ramp.copy()
    spoiled[0, :4] = 32000
    levels, transform = render(read(store(spoiled).path), 0)

    assert transform["voi"] == "percentiles 0.5 to 99.5"
    assert 120 < at(levels, ramp, 1024) < 135


def test_constant_image_is_rendered_without_division_by_zero(store: Any) -> None:
    levels = drawn(store(np.full((64, 64), 1234, np.uint16)))

    assert np.ptp(levels) == 0


@pytest.mark.parametrize(("stored_bits", "high_bit"), [(12, 11), (10, 9), (12, 15)])
def test_unused_bits_are_ignored_and_the_sign_extended(store: Any, stored_bits: int, high_bit: int) -> None:
    shift = high_bit + 1 - stored_bits
    values = np.arange(-64, 64, dtype=np.int32).repeat(8).reshape(32, 32)
    overlay = 0x8000 if high_bit < 15 else 0x0001
    packed = (((values & (2**stored_bits - 1)) << shift) | overlay).astype(np.uint16).view(np.int16)
    stored = store(packed, BitsStored=stored_bits, HighBit=high_bit, WindowCenter=0, WindowWidth=128)

    levels = drawn(stored, Window.between(-64, 63))

    assert levels[values == -64].max() == 0
    assert levels[values == 63].min() == 255
    assert (np.diff(levels.ravel().astype(int)) >= 0).all()


def test_voi_lut_precedes_the_window(store: Any) -> None:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 8]
    pixels = np.arange(256, dtype=np.uint16).repeat(16).reshape(64, 64)
    table.add_new("LUTData", "US", list(range(255, -1, -1)))

    levels, transform = render(read(store(pixels, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2).path), 0)

    assert transform["voi"] == "lookup table"
    assert (levels == 255 - pixels).all()


def test_window_applies_to_the_output_of_the_modality_lut(store: Any) -> None:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.ModalityLUTType = "US"
    table.add_new("LUTData", "US", [10 * value for value in range(256)])
    pixels = np.arange(256, dtype=np.uint16).repeat(16).reshape(64, 64)

    levels = drawn(store(pixels, ModalityLUTSequence=[table]), Window(1275, 2550, "LINEAR_EXACT"))

    assert np.abs(levels.astype(int) - pixels).max() <= 1


def test_32_bit_values_are_rendered(store: Any) -> None:
    pixels = (np.arange(4096, dtype=np.uint32) * 1_000_000).reshape(64, 64)

    levels = drawn(store(pixels, WindowCenter=2_048_000_000, WindowWidth=4_096_000_000))

    assert levels[0, 0] == 0
    assert levels[-1, -1] >= 254
    assert (np.diff(levels.ravel().astype(int)) >= 0).all()


@pytest.mark.parametrize(("stored_bits", "high_bit"), [(16, 0), (16, 7), (12, 7), (12, 200)])
def test_high_bit_below_the_stored_bits_is_ignored(store: Any, stored_bits: int, high_bit: int) -> None:
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)

    levels = drawn(store(pixels, BitsStored=stored_bits, HighBit=high_bit, WindowCenter=2048, WindowWidth=4096))

    assert np.abs(levels.ravel() - np.arange(4096) / 16).max() < 2


@pytest.mark.parametrize("shape", [(3, 13, 13), (9, 1, 5), (3, 2, 5), (2, 13, 1)])
@pytest.mark.parametrize("sign", [0, 1])
def test_single_bit_frames_follow_each_other_without_a_gap(store: Any, shape: tuple[int, int, int], sign: int) -> None:
    bits = np.random.default_rng(5).integers(0, 2, shape).astype(np.uint8)
    packed = np.packbits(bits.ravel(), bitorder="little").tobytes()
    stored = store(
        bits,
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        PixelRepresentation=sign,
        PixelData=packed + b"\0" * (len(packed) % 2),
    )

    header = read(stored.path)

    assert all((render(header, frame)[0] == 255 * bits[frame]).all() for frame in range(len(bits)))


def padded_frame(*, error: int, spread: int) -> Frame:
    """Anatomy from 500 upwards on padding of -2000, changed by up to *error*."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:128, 0:128]
    samples = (500 + 4 * x + rng.integers(-spread, spread + 1, x.shape)).astype(np.int16)
    outside = (y - 64) ** 2 + (x - 64) ** 2 > 50**2
    samples[outside] = -2000 + rng.integers(-error, error + 1, np.count_nonzero(outside))
    return Frame(samples, "MONOCHROME1", stored=16, error=error)


@pytest.mark.parametrize("error", [0, 3, 40])
def test_padding_is_black_after_lossy_compression(store: Any, ramp: npt.NDArray[np.int16], error: int) -> None:
    header = read(store(ramp, PixelPaddingValue=-2000).path)
    frame = padded_frame(error=error, spread=9)

    levels, _ = to_grey(header, frame)

    assert levels[frame.samples < 0].max() == 0
    # Padding takes no part in the choice of the window.
    assert np.ptp(levels[frame.samples > 0]) > 230


def test_padding_is_black_in_an_object_that_was_compressed_before(store: Any, ramp: npt.NDArray[np.int16]) -> None:
    header = read(store(ramp, PixelPaddingValue=-2000, LossyImageCompression="01").path)
    frame = replace(padded_frame(error=40, spread=9), error=0)

    assert to_grey(header, frame)[0][frame.samples < 0].max() == 0


def test_image_that_goes_on_beside_its_padding_keeps_its_values(store: Any, ramp: npt.NDArray[np.int16]) -> None:
    header = read(store(ramp, PixelPaddingValue=-1024, WindowCenter=0, WindowWidth=4000).path)

    levels, _ = to_grey(header, Frame(ramp, "MONOCHROME1", stored=16, error=40))

    assert [at(levels, ramp, value) for value in (-1024, -1023, -990)] == [0, 192, 190]


def test_signed_32_bit_values_are_rescaled_before_the_window(store: Any) -> None:
    hounsfield = np.linspace(-1000, 1000, 4096).reshape(64, 64)
    elements = {"RescaleSlope": "0.00002", "RescaleIntercept": 0, "WindowCenter": 40, "WindowWidth": 400}

    levels = drawn(store((hounsfield * 50_000).astype(np.int32), **elements))

    expected = np.clip((hounsfield - 39.5) / 399 + 0.5, 0, 1) * 255
    assert np.abs(levels - expected).max() <= 1
