from __future__ import annotations

from db.jobs.class_share import ClassShare
from db.states import JobKind
from db.studies.priority import HIGH, LOW, ROUTINE, STAT


def claimed_in_order(*waiting: tuple[str, int, int], claims: int = 100) -> list[str]:
    """Claim jobs as the claim loop does; *waiting* has name, priority, number: the most urgent first."""
    share, order = ClassShare(), []
    left = {name: number for name, _, number in waiting}
    levels = {name: level for name, level, _ in waiting}

    def allowed(name: str) -> bool:
        return levels[name] <= ROUTINE or (share.inquiries if name == "question" else not share.routine_only)

    while any(left.values()) and len(order) < claims:
        found = [name for name, number in left.items() if number]
        name = next((one for one in found if not share.restricted or allowed(one)), found[0])
        left[name] -= 1
        share.claimed(levels[name], JobKind.QUESTION if name == "question" else JobKind.REPORT)
        order.append(name)
    return order


def test_routine_keeps_a_fourth_while_urgent_jobs_wait() -> None:
    order = claimed_in_order(("stat", STAT, 9), ("routine", ROUTINE, 3))
    assert order == ["stat", "stat", "stat", "routine"] * 3


def test_single_urgent_job_precedes_the_next_routine_one() -> None:
    assert claimed_in_order(("stat", STAT, 1), ("routine", ROUTINE, 3)) == ["stat"] + ["routine"] * 3


def test_routine_turn_without_a_routine_job_goes_to_urgent_ones() -> None:
    assert claimed_in_order(("stat", STAT, 5), ("routine", ROUTINE, 0)) == ["stat"] * 5


def test_program_that_asks_without_end_delays_stat_reports_by_one_answer_a_turn() -> None:
    order = claimed_in_order(("stat", STAT, 99), ("question", HIGH, 99), ("routine", ROUTINE, 99), claims=20)
    assert order == ["stat", "stat", "stat", "question", "routine"] * 4


def test_question_stays_behind_stat_reports_while_no_routine_one_waits() -> None:
    order = claimed_in_order(("stat", STAT, 9), ("question", HIGH, 9), claims=12)
    assert order == ["stat"] * 3 + ["question"] + ["stat"] * 6 + ["question"] * 2


def test_stat_report_precedes_the_routine_one_whose_turn_questions_have_delayed() -> None:
    share = ClassShare()
    for _ in range(30):
        share.claimed(HIGH, JobKind.QUESTION)
    assert share.restricted
    assert not share.routine_only


def test_every_class_above_routine_counts_as_urgent() -> None:
    share = ClassShare()
    for priority in (HIGH, STAT, HIGH):
        share.claimed(priority)
    assert share.routine_only
    share.claimed(LOW)
    assert not share.restricted


def test_inquiry_precedes_the_routine_report_even_in_its_turn() -> None:
    share = ClassShare()
    for _ in range(3):
        share.claimed(STAT)
    assert share.routine_only
    assert share.inquiries
    share.claimed(HIGH, JobKind.QUESTION)
    assert share.routine_only
    assert not share.inquiries


def test_program_that_asks_without_end_leaves_turns_to_routine_reports() -> None:
    share = ClassShare()
    for _ in range(30):
        assert not share.restricted
        share.claimed(HIGH, JobKind.QUESTION)
    assert share.restricted
    assert not share.inquiries
    share.claimed(ROUTINE)
    assert not share.restricted
    assert share.inquiries
