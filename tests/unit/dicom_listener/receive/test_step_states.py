"""Files of the states of procedure steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dicom_listener.receive.n_services import COMPLETED, IN_PROGRESS, StepStates

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("left", [b"", b"COMP", b"\xff\xfe"])
def test_state_that_a_crash_has_damaged_lets_the_step_end(tmp_path: Path, left: bytes) -> None:
    states = StepStates(tmp_path)
    assert states["2.25.1"] is None
    states.create("2.25.1", IN_PROGRESS)
    next(tmp_path.iterdir()).write_bytes(left)

    assert states["2.25.1"] == IN_PROGRESS
    states["2.25.1"] = COMPLETED
    assert states["2.25.1"] == COMPLETED
