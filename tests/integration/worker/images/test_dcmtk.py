"""Rendering compared with DCMTK's, at full size and with the same window."""

from __future__ import annotations

import csv
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from db.studies.sop_classes import is_reportable
from tests.conftest import missing
from worker.images.decode.files import read
from worker.images.errors import Unreadable
from worker.images.render.render import render

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt


@pytest.fixture(scope="module")
def tools() -> list[str]:
    found = [path for path in map(shutil.which, ("dcm2pnm", "dcmj2pnm")) if path]
    if len(found) != 2:
        missing("DCMTK's dcm2pnm and dcmj2pnm (Debian package dcmtk)")
    return found


def by_dcmtk(tools: list[str], source: Path, target: Path, transform: dict[str, Any]) -> npt.NDArray[np.uint8] | None:
    """Return DCMTK's first frame without overlays, in our window; None if it cannot read the file."""
    window: list[str] = []
    if "center" in transform:
        window = ["+Ww", str(transform["center"]), str(transform["width"])]
    if transform.get("voi") == "lookup table":
        window = ["+Wl", "1"]
    if transform.get("function") == "SIGMOID":
        window.append("+Wfs")
    target.unlink(missing_ok=True)
    for tool in tools:
        command = [tool, "-O", "+F", "1", *window, "--write-png", str(source), str(target)]
        subprocess.run(command, capture_output=True, check=False, timeout=60)
        if target.exists():
            return np.asarray(Image.open(target))
    return None


@pytest.fixture(scope="module")
def compared(test_data: Path, tools: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Our and DCMTK's image of every file that both can render."""
    folder, target = test_data / "dicom", tmp_path_factory.mktemp("dcmtk") / "frame.png"
    pairs = {}
    with (folder / "MANIFEST.csv").open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    for name in names:
        try:
            header = read(folder / name)
            if not is_reportable(header.text("SOPClassUID")):
                continue
            ours, transform = render(header.of_frames([0])[0], 0, icc=False)
        except Unreadable:
            continue
        theirs = by_dcmtk(tools, folder / name, target, transform)
        if theirs is not None:
            pairs[name] = ours, theirs
    return pairs


def disagreeing(pairs: dict[str, tuple[Any, Any]], within: int) -> dict[str, tuple[float, float]]:
    """Return the files with fewer than 99 % of samples *within* levels, or a median difference other than 0."""
    found = {}
    for name, (ours, theirs) in pairs.items():
        assert ours.shape == theirs.shape, name
        difference = np.abs(ours.astype(int) - theirs)
        close, median = float(np.mean(difference <= within)), float(np.median(difference))
        if close < 0.99 or median > 0:
            found[name] = close, median
    return found


def test_grayscale_files_agree_with_dcmtk_within_one_level(compared: dict[str, tuple[Any, Any]]) -> None:
    grey = {name: pair for name, pair in compared.items() if pair[0].ndim == 2}

    assert len(grey) >= 40
    assert disagreeing(grey, within=1) == {}


def test_colour_files_agree_with_dcmtk_within_three_levels(compared: dict[str, tuple[Any, Any]]) -> None:
    colour = {name: pair for name, pair in compared.items() if pair[0].ndim == 3}

    assert len(colour) >= 15
    assert disagreeing(colour, within=3) == {}
