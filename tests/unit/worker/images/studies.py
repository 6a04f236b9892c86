"""Builders of the objects of a study; each test states only the attributes it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.images.study import StoredInstance
    from worker.images.study_images import StudyImages

AXIAL, CORONAL = [1, 0, 0, 0, 1, 0], [1, 0, 0, 0, 0, -1]


def textured(seed: int, side: int = 64) -> np.ndarray[Any, Any]:
    """A smooth image, different for each seed."""
    y, x = np.mgrid[0:side, 0:side]
    waves: np.ndarray[Any, Any] = 1000 + 500 * np.sin(x / 9 + seed) * np.cos(y / 7 + seed)
    return waves.astype(np.int16)


def ct(store: Any, count: int, **more: Any) -> list[StoredInstance]:
    """A volume whose instance numbers run against its positions."""
    return [
        store(
            textured(number),
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[0, 0, 5.0 * number],
            InstanceNumber=count - number,
            RescaleSlope=1,
            RescaleIntercept=-1000,
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            **more,
        )
        for number in range(count)
    ]


def series(store: Any, number: int, count: int, *, place: float = 0.0, **elements: Any) -> list[StoredInstance]:
    """An axial series whose lowest slice is at *place*."""
    usual = {"SeriesInstanceUID": generate_uid(), "SeriesNumber": number, "RescaleSlope": 1, "RescaleIntercept": -1000}
    return [
        store(
            textured(1000 * number + each),
            ImageOrientationPatient=AXIAL,
            ImagePositionPatient=[0, 0, place + 5.0 * each],
            InstanceNumber=each + 1,
            **usual | elements,
        )
        for each in range(count)
    ]


def radiograph(store: Any, number: int, **elements: Any) -> StoredInstance:
    usual = {"Modality": "DX", "SeriesNumber": number, "SeriesInstanceUID": generate_uid()}
    written: StoredInstance = store(textured(number), **usual | elements)
    return written


def places(study: StudyImages, stored: list[StoredInstance]) -> list[int]:
    order = {item.sop_instance_uid: number for number, item in enumerate(stored)}
    return [order[image.sop_instance_uid] for image in study.images]


def positioned(place: Sequence[float], orientation: Sequence[float], **macros: Dataset) -> Dataset:
    """The functional groups of one frame."""
    position, facing, frame = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient, facing.ImageOrientationPatient = list(place), list(orientation)
    frame.PlanePositionSequence, frame.PlaneOrientationSequence = [position], [facing]
    for name, macro in macros.items():
        setattr(frame, name, [macro])
    return frame
