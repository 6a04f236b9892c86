"""The pool: training images equal those that a worker renders from the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from worker.images.study import StoredInstance, images_of
from worker.phantoms.cases import CATALOGUE
from worker.phantoms.dicom_files import write_study
from worker.phantoms.phantoms import TRAINING
from worker.training.training_cases import SIZE, Share, make_pool

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def levels(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return a coarse version of an image: slices of training lie up to one slice from those of a file."""
    small = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((16, 16), Image.Resampling.BOX), np.float32)


@pytest.mark.parametrize("family", CATALOGUE)
def test_training_images_equal_those_rendered_from_files(tmp_path: Path, family: str) -> None:
    pool = make_pool([Share(family, 8, mixed=False)], seed=77)

    apart = []
    for number, sample in enumerate(pool.samples):
        assert sample.case
        files = write_study(sample.case, tmp_path / str(number), variation=TRAINING)
        images = images_of([StoredInstance(path, str(path)) for path in files]).images
        views = zip(sample.rows, images, strict=family != "chest")  # some have a lateral view
        apart += [np.abs(levels(view.pixels) - levels(pool.images[row])).mean() for row, view in views]
    assert np.median(apart) <= (4 if family in {"ct", "mr"} else 1)
