from __future__ import annotations

from db.jobs.class_share import ClassShare
from db.states import JobKind
from db.studies.priority import HIGH, LOW, ROUTINE, STAT


def claimed_in_order(urgent: int, routine: int) -> list[int]:
    """Claim all jobs as the claim loop does."""
    share, order = ClassShare(), []
    while urgent or routine:
        take_routine = routine and (share.routine_first or not urgent)
        priority = ROUTINE if take_routine else STAT
        urgent, routine = (urgent, routine - 1) if take_routine else (urgent - 1, routine)
        share.claimed(priority)
        order.append(priority)
    return order


def test_routine_keeps_a_fourth_while_urgent_jobs_wait() -> None:
    assert claimed_in_order(9, 3) == [STAT, STAT, STAT, ROUTINE] * 3


def test_single_urgent_job_precedes_the_next_routine_one() -> None:
    assert claimed_in_order(1, 3) == [STAT, ROUTINE, ROUTINE, ROUTINE]


def test_routine_turn_without_a_routine_job_goes_to_urgent_ones() -> None:
    assert claimed_in_order(5, 0) == [STAT] * 5


def test_every_class_above_routine_counts_as_urgent() -> None:
    share = ClassShare()
    for priority in (HIGH, STAT, HIGH):
        share.claimed(priority)
    assert share.routine_first
    share.claimed(LOW)
    assert not share.routine_first


def test_inquiry_precedes_the_routine_reports_even_in_their_turn() -> None:
    share = ClassShare()
    for _ in range(3):
        share.claimed(STAT)
    assert share.routine_first
    assert share.inquiries
    share.claimed(HIGH, JobKind.QUESTION)
    assert share.routine_first
    assert share.inquiries


def test_program_that_asks_without_end_leaves_turns_to_routine_reports() -> None:
    share = ClassShare()
    for _ in range(30):
        assert not share.routine_first
        share.claimed(HIGH, JobKind.QUESTION)
    assert share.routine_first
    assert not share.inquiries
    share.claimed(ROUTINE)
    assert not share.routine_first
    assert share.inquiries
