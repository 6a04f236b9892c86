"""Files of the states of procedure steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dicom_listener.dicom.statuses import NoLongerUpdatable
from dicom_listener.receive.n_services import COMPLETED, DISCONTINUED, IN_PROGRESS, StepStates

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def states(tmp_path: Path) -> StepStates:
    return StepStates(tmp_path)


@pytest.mark.parametrize("left", [b"", b"COMP", b"\xff\xfe"])
def test_state_that_a_crash_has_damaged_lets_the_step_end(tmp_path: Path, states: StepStates, left: bytes) -> None:
    assert states["2.25.1"] is None
    states.create("2.25.1", IN_PROGRESS)
    next(tmp_path.iterdir()).write_bytes(left)

    assert states["2.25.1"] == IN_PROGRESS
    states.update("2.25.1", COMPLETED)
    assert states["2.25.1"] == COMPLETED
    next(tmp_path.glob("*.end")).write_bytes(left)
    assert states["2.25.1"] == IN_PROGRESS
    states.update("2.25.1", DISCONTINUED)
    assert states["2.25.1"] == DISCONTINUED


@pytest.mark.parametrize("late", [IN_PROGRESS, COMPLETED, DISCONTINUED])
def test_first_end_of_a_step_stays(tmp_path: Path, states: StepStates, late: str) -> None:
    states.create("2.25.1", IN_PROGRESS)
    states.update("2.25.1", IN_PROGRESS)
    states.update("2.25.1", COMPLETED)
    with pytest.raises(NoLongerUpdatable):
        StepStates(tmp_path).update("2.25.1", late)
    assert states["2.25.1"] == COMPLETED
    assert len(list(tmp_path.iterdir())) == 2, "no other file is left"


def test_two_ends_at_once_are_recorded_as_one(tmp_path: Path, states: StepStates) -> None:
    class Late(StepStates):
        """Finds the step in progress, and another process ends it then."""

        def _write(self, sop_instance_uid: str, state: str) -> Path:
            fresh = super()._write(sop_instance_uid, state)
            states.update(sop_instance_uid, DISCONTINUED)
            return fresh

    states.create("2.25.1", IN_PROGRESS)
    with pytest.raises(NoLongerUpdatable):
        Late(tmp_path).update("2.25.1", COMPLETED)
    assert states["2.25.1"] == DISCONTINUED


def test_end_that_an_earlier_version_has_recorded_is_known(states: StepStates) -> None:
    states.create("2.25.1", COMPLETED)
    assert states["2.25.1"] == COMPLETED
    with pytest.raises(NoLongerUpdatable):
        states.update("2.25.1", DISCONTINUED)
