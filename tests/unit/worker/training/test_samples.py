"""The pool: what training looks at is what a worker makes of the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from worker.images.study import StoredInstance, images_of
from worker.phantoms.cases import CATALOGUE
from worker.phantoms.dicom_files import write_study
from worker.phantoms.phantoms import TRAINING
from worker.training.samples import SIZE, Share, make_pool

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


def levels(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """An image as the model takes it, coarse: slices of training lie up to a slice from those of a file."""
    small = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(small.resize((16, 16), Image.Resampling.BOX), np.float32)


@pytest.mark.parametrize("family", CATALOGUE)
def test_training_sees_what_a_worker_makes_of_the_files(tmp_path: Path, family: str) -> None:
    pool = make_pool([Share(family, 8, mixed=False)], seed=77)

    apart = []
    for number, item in enumerate(pool.items):
        assert item.case
        files = write_study(item.case, tmp_path / str(number), variation=TRAINING)
        seen = images_of([StoredInstance(path, str(path)) for path in files]).images
        views = zip(item.rows, seen, strict=family != "chest")  # a lateral view comes by chance
        apart += [np.abs(levels(view.pixels) - levels(pool.images[row])).mean() for row, view in views]
    assert np.median(apart) <= (4 if family in {"ct", "mr"} else 1)
