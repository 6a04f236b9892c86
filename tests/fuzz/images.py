"""Fuzzer of the image pipeline: seeded, bounded, and each case can be repeated by its number.

    python -m tests.fuzz.images --seed 1 --seconds 60
    python -m tests.fuzz.images --seed 1 --case 1234 --keep damaged.dcm

Every case is a valid object with a few bytes changed, lost or doubled. It must become an image or end with a
reason: in time, in memory, and without another exception anywhere, the ones that images_of catches included.
"""

from __future__ import annotations

import argparse
import io
import struct
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from db.errors import NotReportable
from worker.images import stacks, study
from worker.images.decode import compressed
from worker.images.errors import Unreadable
from worker.images.study import StoredInstance, images_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

#: Seconds one small object may take on a busy machine.
MAX_SECONDS = 10
#: Growth of the process's peak memory, in bytes.
MAX_GROWTH = 200 << 20
_HEADER = 3000
_VALUES = (0, 1, 2, 8, 15, 16, 32, 127, 128, 255)
_GREY = np.add.outer(np.arange(96), np.arange(128)).astype(np.uint16) * 18
_COLOUR = np.stack([_GREY % 256, _GREY // 4 % 256, _GREY // 16], axis=-1).astype(np.uint8)


class Broken(Exception):
    """Raised when an object ended as neither an image nor a reason; names the case."""


def written(pixels: npt.NDArray[Any], syntax: str = ExplicitVRLittleEndian, **elements: Any) -> bytes:
    """An object as a file; keywords are its elements."""
    dataset, colour = Dataset(), pixels.shape[-1] == 3
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality = "1.2", "1.2.3", "CT"
    bits = 8 * pixels.dtype.itemsize
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    if pixels.ndim > 2 + colour:
        dataset.NumberOfFrames = len(pixels)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = (3, "RGB") if colour else (1, "MONOCHROME2")
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    swapped = pixels.byteswap() if syntax == ExplicitVRBigEndian else pixels
    dataset.PixelData = swapped.tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.compress(syntax, generate_instance_uid=False)
    if syntax == JPEGBaseline8Bit:
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def jpeg(**options: Any) -> bytes:
    """A frame of colour, encapsulated."""
    buffer = io.BytesIO()
    Image.fromarray(_COLOUR).save(buffer, "JPEG", **options)
    return encapsulate([buffer.getvalue()])


def table(first: int, depth: int) -> list[Dataset]:
    """A lookup table of 4096 entries."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS", [4096, first, depth])
    item.add_new("LUTData", "OW", (np.arange(4096) * (2**depth - 1) // 4095).astype("<u2").tobytes())
    return [item]


def palette(*, segmented: bool) -> dict[str, Any]:
    """The elements of a palette of 256 entries."""
    elements: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    words = [0, 1, 0, 1, 127, 0xFFFF, 0, 1, 0, 2, 1, 6, 0]
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        name, entries = (
            (f"Segmented{colour}PaletteColorLookupTableData", struct.pack(f"<{len(words)}H", *words))
            if segmented
            else (f"{colour}PaletteColorLookupTableData", (np.arange(256) * 257).astype("<u2").tobytes())
        )
        elements[name] = entries
    return elements


def functional_groups(frames: int) -> list[Dataset]:
    """A position for each frame."""
    groups = []
    for number in range(frames):
        position, orientation, group = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 3.0 * number]
        orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        group.PlanePositionSequence, group.PlaneOrientationSequence = [position], [orientation]
        groups.append(group)
    return groups


def regions() -> list[Dataset]:
    """An ultrasound region."""
    region = Dataset()
    region.RegionLocationMinX0, region.RegionLocationMinY0 = 10, 10
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = 110, 80
    return [region]


def sources() -> list[bytes]:
    """Return a small valid object of every kind that the code distinguishes."""
    signed = _GREY.astype(np.int16) - 1024
    bits = np.packbits(np.arange(3 * 13 * 13) % 3 == 0, bitorder="little").tobytes()
    single = {"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0, "PixelData": bits + b"\0" * (len(bits) % 2)}
    window = {"WindowCenter": 1000, "WindowWidth": 2000, "RescaleSlope": 1, "RescaleIntercept": -1024}
    slide = {
        "Modality": "SM",
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.6",
        "DimensionOrganizationType": "TILED_FULL",
    }
    small = _COLOUR[:64, :64]
    baseline = {"PhotometricInterpretation": "YBR_FULL_422", "Modality": "XC"}
    natives = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
    return [
        *(written(signed, syntax, **window) for syntax in natives),
        *(
            written(_GREY, syntax, BitsStored=12, HighBit=11)
            for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless)
        ),
        written(_GREY.astype(np.uint32) * 4000),
        written(_COLOUR, PhotometricInterpretation="YBR_FULL"),
        written(_COLOUR, JPEG2000Lossless),
        *(
            written(_COLOUR, JPEGBaseline8Bit, PixelData=jpeg(**more), **baseline)
            for more in ({}, {"progressive": True})
        ),
        written(_GREY, VOILUTSequence=table(0, 8)),
        written(signed, ImplicitVRLittleEndian, VOILUTSequence=table(-1024, 16)),
        written(signed, ModalityLUTSequence=table(-1024, 12), PixelPaddingValue=-1024),
        *(written(_COLOUR[..., 0].copy(), **palette(segmented=segmented)) for segmented in (False, True)),
        written(np.zeros((3, 13, 13), np.uint8), **single),
        written(
            np.stack([_GREY] * 6),
            SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1",
            PerFrameFunctionalGroupsSequence=functional_groups(6),
        ),
        written(np.stack([_GREY] * 6), RLELossless, Modality="US"),
        written(_COLOUR, Modality="US", SequenceOfUltrasoundRegions=regions()),
        written(np.stack([small] * 6), **slide, TotalPixelMatrixRows=128, TotalPixelMatrixColumns=192),
    ]


def spoiled(good: bytes, random: Random) -> bytes:
    """Return *good* with a few changes, most of them in the header."""
    content = bytearray(good)
    for _ in range(random.choice((1, 2, 4, 8))):
        end = min(len(content), _HEADER) if random.random() < 0.7 else len(content)
        random.choice(_CHANGES)(content, random.randrange(132, end), random)
        if len(content) < 200:
            break
    return bytes(content)


def _change(content: bytearray, at: int, random: Random) -> None:
    content[at] = random.choice((*_VALUES, random.randrange(256)))


def _enlarge(content: bytearray, at: int, random: Random) -> None:
    content[at : at + 2] = random.choice((b"\xff\xff", b"\0\0", b"\0\x80", b"\xff\x7f"))


def _lose(content: bytearray, at: int, random: Random) -> None:
    del content[at : at + random.choice((1, 2, 8, 100))]


def _cut(content: bytearray, at: int, random: Random) -> None:
    if random.random() < 0.2:
        del content[max(at, len(content) - random.randrange(1, 5000)) :]


def _double(content: bytearray, at: int, random: Random) -> None:
    content[at:at] = content[at : at + random.choice((2, 8, 40, 400))]


_CHANGES: tuple[Callable[[bytearray, int, Random], None], ...] = (
    _change, _change, _change, _change, _enlarge, _lose, _cut, _double,
)  # fmt: skip


def case(goods: list[bytes], seed: int, number: int) -> bytes:
    """Return the damaged file of one case."""
    random = Random(f"{seed} {number}")
    return spoiled(random.choice(goods), random)


def run(path: Path, content: bytes, name: str) -> bool:
    """Return whether *content* became images. Raises Broken on an unforeseen error, or if it took too long."""
    path.write_bytes(content)
    before, start = resident(), time.perf_counter()
    try:
        images_of([StoredInstance(path, "1.2.3")])
        shown = True
    except NotReportable:
        shown = False
    except Exception as error:
        raise Broken(f"{name}: {type(error).__name__}: {error}") from error
    seconds = time.perf_counter() - start
    if seconds > MAX_SECONDS:
        raise Broken(f"{name}: {seconds:.0f} s")
    if resident() - before > MAX_GROWTH:
        raise Broken(f"{name}: {resident() - before >> 20} MiB")
    return shown


def resident() -> int:
    """Return the peak memory of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


def unguarded(work: Callable[[Any], Any], of: Any) -> Any:
    """Replace the guard of images, which turns unforeseen errors into reasons: here they must surface."""
    try:
        return work(of)
    except Unreadable as problem:
        return problem


def expose() -> None:
    """Let unforeseen errors surface, and leave out the second decoders, whose processes cannot end this one."""
    study.guarded = stacks.guarded = unguarded
    compressed._OTHER_DECODERS = {}


def fuzz(seed: int, seconds: float) -> tuple[int, int]:
    """Run cases for *seconds*; return their number, and how many became images. Raises Broken."""
    goods, shown = sources(), 0
    kept = study.guarded, stacks.guarded, compressed._OTHER_DECODERS
    expose()
    try:
        with tempfile.TemporaryDirectory() as folder:
            path, end = Path(folder) / "case.dcm", time.monotonic() + seconds
            for number in count():
                if time.monotonic() > end:
                    return number, shown
                shown += run(path, case(goods, seed, number), f"--seed {seed} --case {number}")
    finally:
        study.guarded, stacks.guarded, compressed._OTHER_DECODERS = kept
    raise AssertionError("count() has no end")


def main() -> None:
    """Run the fuzzer and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--case", type=int)
    parser.add_argument("--keep", type=Path, help="file to write the object of --case to")
    arguments = parser.parse_args()
    if arguments.case is None:
        cases, shown = fuzz(arguments.seed, arguments.seconds)
        sys.stdout.write(f"{cases} cases, {shown} with images, {resident() >> 20} MiB\n")
        return
    expose()
    content = case(sources(), arguments.seed, arguments.case)
    if arguments.keep:
        arguments.keep.write_bytes(content)
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(f"images: {run(Path(folder) / 'case.dcm', content, 'this case')}\n")


if __name__ == "__main__":
    main()
