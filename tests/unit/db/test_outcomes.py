"""A reason that becomes frequent raises an alarm; a frequent or rare one does not."""

from __future__ import annotations

import pytest

from db.operations import outcomes
from db.operations.outcomes import Outcome


@pytest.mark.parametrize(
    ("hour", "day", "reports", "is_raised"),
    [
        pytest.param(5, 2, (15, 98), True, id="from 2 % to 25 %"),
        pytest.param(5, 0, (15, 0), True, id="first day"),
        pytest.param(4, 0, (4, 0), False, id="too few"),
        pytest.param(5, 0, (25, 0), False, id="small share"),
        pytest.param(5, 25, (15, 75), False, id="as before"),
    ],
)
def test_rising_share_of_a_reason_raises_an_alarm(
    *, hour: int, day: int, reports: tuple[int, int], is_raised: bool
) -> None:
    alarm = outcomes.alarm([Outcome(None, *reports), Outcome("unknown_transfer_syntax", hour, day)])
    assert (alarm is not None) is is_raised
    if alarm is not None:
        assert alarm[0] == "reason_rising"
        assert f"{hour} of the {hour + reports[0]} studies" in alarm[1]


@pytest.mark.parametrize(
    ("reason", "reports", "is_raised"),
    [
        ("demo_checkpoint", 0, True),
        ("demo_checkpoint", 1, False),
        ("store_only", 0, False),
        ("no_report_task", 0, False),
    ],
)
def test_reason_that_leaves_no_report_of_a_day_keeps_its_alarm(reason: str, reports: int, *, is_raised: bool) -> None:
    """After a day, its share has not risen any more, and no other alarm counts studies that are not reportable."""
    found = [Outcome(reason, 20, 400), *([Outcome(None, 0, reports)] if reports else [])]

    assert (outcomes.alarm(found) is not None) is is_raised


def test_no_outcomes_raise_no_alarm() -> None:
    assert outcomes.alarm([]) is None
    assert outcomes.alarm([Outcome(None, 100, 1000)]) is None
