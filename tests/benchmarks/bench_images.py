"""Time from a study to its images, compared with pydicom alone in the same run. `make bench-images`.

- ct: 600 slices of 512 x 512, 16 bit, native, to 8 images; against decoding every slice, and against reading every
  header plus decoding the 8 chosen.
- ct_rle: the same, RLE compressed.
- dx: a radiograph of 3000 x 2500, 12 of 16 bits, to its image; against decoding it and applying its LUTs.

Every figure is the best of several runs over files in the page cache. The last line is JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from worker.images.study import StoredInstance, images_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

SLICES = 600
BUDGET = 8
REPEATS = 5


def best(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the seconds of the fastest of several runs."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def image(sop_class: str, pixels: npt.NDArray[np.uint16] | npt.NDArray[np.int16], stored: int) -> Dataset:
    """Return an image object with typical elements, and as many private ones."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    dataset.SeriesNumber = 3
    for keyword in (
        "Manufacturer",
        "InstitutionName",
        "StationName",
        "StudyDescription",
        "SeriesDescription",
        "ProtocolName",
    ):
        setattr(dataset, keyword, "something typical")
    for keyword in ("KVP", "ExposureTime", "XRayTubeCurrent", "Exposure", "SliceThickness", "TableHeight"):
        setattr(dataset, keyword, 100)
    block = dataset.private_block(0x0019, "A SCANNER", create=True)
    for number in range(40):
        block.add_new(number, "DS", "1.234567")
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, stored, stored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.PixelData = pixels.tobytes()
    return dataset


def write_ct(folder: Path, *, compressed: bool) -> list[StoredInstance]:
    """Write a chest CT, its slices in random order."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    body = np.where(x**2 + (1.4 * y) ** 2 < 0.8, 40, -1000).astype(np.int16)
    stored: list[StoredInstance] = []
    for number in rng.permutation(SLICES):
        pixels = (body + rng.integers(-60, 60, body.shape)).astype(np.int16)
        dataset = image(CTImageStorage, pixels, 16)
        dataset.Modality, dataset.BodyPartExamined = "CT", "CHEST"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-200, -200, float(number)]
        dataset.PixelSpacing = [0.7, 0.7]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        dataset.WindowCenter, dataset.WindowWidth = 40, 400
        if compressed:
            dataset.compress(RLELossless, generate_instance_uid=False)
        path = folder / f"{len(stored)}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        stored.append(StoredInstance(path, dataset.SOPInstanceUID))
    return stored


def write_dx(folder: Path) -> StoredInstance:
    """Write a chest radiograph of a modern detector."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[-1:1:3000j, -1:1:2500j]
    pixels = (2000 + 1500 * np.sin(3 * x) * np.cos(2 * y) + rng.integers(0, 200, x.shape)).astype(np.uint16)
    dataset = image(DigitalXRayImageStorageForPresentation, pixels, 12)
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "DX", "CHEST", "PA"
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.WindowCenter, dataset.WindowWidth = 2000, 3500
    path = folder / "dx.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return StoredInstance(path, dataset.SOPInstanceUID)


def decoded(stored: StoredInstance) -> npt.NDArray[np.generic]:
    """Decode by pydicom alone."""
    return dcmread(stored.path).pixel_array


def displayed(stored: StoredInstance) -> npt.NDArray[np.generic]:
    """Decode and apply the lookup tables by pydicom alone."""
    dataset = dcmread(stored.path)
    return apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)


def measure_ct(stored: list[StoredInstance]) -> dict[str, float]:
    """Return the seconds of one CT: ours, all slices, headers alone, headers and selected slices."""
    by_uid = {item.sop_instance_uid: item for item in stored}
    chosen = {image.sop_instance_uid for image in images_of(stored, budget=BUDGET).images}
    headers = best(lambda: [dcmread(item.path, stop_before_pixels=True) for item in stored])
    return {
        "images": best(lambda: images_of(stored, budget=BUDGET)),
        "decode all": best(lambda: [decoded(item) for item in stored], 3),
        "decode and LUT all": best(lambda: [displayed(item) for item in stored], 2),
        "headers": headers,
        "headers + chosen": headers + best(lambda: [displayed(by_uid[uid]) for uid in chosen]),
    }


def main() -> None:
    """Print a table and the JSON line."""
    with tempfile.TemporaryDirectory() as name:
        tables = {}
        for kind in ("ct", "ct_rle"):
            folder = Path(name) / kind
            folder.mkdir()
            tables[kind] = measure_ct(write_ct(folder, compressed=kind == "ct_rle"))
        dx = write_dx(Path(name))
        tables["dx"] = {"images": best(lambda: images_of([dx])), "decode and LUT": best(lambda: displayed(dx))}
    for kind, seconds in tables.items():
        for what, value in seconds.items():
            sys.stdout.write(f"{kind:8} {what:20} {value * 1000:9.1f} ms\n")
    ct, figures = tables["ct"], {}
    figures["vs_decode_all"] = ct["decode all"] / ct["images"]
    figures["vs_headers_plus_chosen"] = ct["images"] / ct["headers + chosen"]
    figures["dx_vs_bare"] = tables["dx"]["images"] / tables["dx"]["decode and LUT"]
    figures["vs_draw_all"] = ct["decode and LUT all"] / ct["images"]
    figures["vs_decode_all_rle"] = tables["ct_rle"]["decode all"] / tables["ct_rle"]["images"]
    sys.stdout.write(json.dumps({key: round(value, 3) for key, value in figures.items()}) + "\n")


if __name__ == "__main__":
    main()
