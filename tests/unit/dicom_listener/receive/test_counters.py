"""Refusals that a process of the listener passes on to its parent."""

from __future__ import annotations

from dicom_listener.receive.counters import MAX_TAKEN, RefusalCounter


def test_refusals_of_more_senders_than_a_message_holds_follow_with_the_next() -> None:
    child, parent = RefusalCounter(), RefusalCounter()
    for number in range(2 * MAX_TAKEN + 1):
        child.add("object", f"CT_{number}", "malformed")
    for _ in range(3):
        parent.include(child.take())

    assert sorted(count for _, _, count in parent.by_sender()) == [1] * (2 * MAX_TAKEN + 1)
    assert [row.times for row in parent.by_cause()] == [2 * MAX_TAKEN + 1]
    assert child.take() == {"senders": [], "causes": []}
