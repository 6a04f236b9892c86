"""The outbox of storage commitment results: its states, and the two processes that share it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dicom_listener.dicom.commitment_result import CommitmentResult
from dicom_listener.spool.commitment_outbox import CommitmentOutbox, State

if TYPE_CHECKING:
    from pathlib import Path

RESULT = CommitmentResult("1.2.3", committed=[("1.2", "1.2.4")], failed=[("1.2", "1.2.5", 0x0112)])


@pytest.fixture
def outbox(tmp_path: Path) -> CommitmentOutbox:
    return CommitmentOutbox(tmp_path)


def test_result_is_found_by_its_association_only(outbox: CommitmentOutbox) -> None:
    key = outbox.put("association", "commitment", RESULT)
    assert outbox.state(key) is State.WAITING
    assert outbox.find("other") is None
    found = outbox.find("association")
    assert found is not None
    assert (found[0], found[1].encode("1.2.840.10008.1.2")) == (key, RESULT.encode("1.2.840.10008.1.2"))


@pytest.mark.parametrize(("accepted", "state"), [(True, State.ACCEPTED), (False, State.REFUSED)])
def test_answered_result_is_not_sent_again(outbox: CommitmentOutbox, accepted: bool, state: State) -> None:
    key = outbox.put("association", "commitment", RESULT)
    outbox.record(key, accepted=accepted)
    assert outbox.state(key) is state
    assert outbox.find("association") is None


def test_response_after_the_removal_has_no_effect(outbox: CommitmentOutbox) -> None:
    key = outbox.put("association", "commitment", RESULT)
    outbox.remove(key)
    outbox.record(key, accepted=True)
    assert outbox.state(key) is None


def test_repeated_result_waits_again(outbox: CommitmentOutbox) -> None:
    outbox.record(outbox.put("association", "commitment", RESULT), accepted=False)
    assert outbox.state(outbox.put("association", "commitment", RESULT)) is State.WAITING


def test_start_of_a_listener_clears_the_outbox(outbox: CommitmentOutbox, tmp_path: Path) -> None:
    outbox.put("association", "commitment", RESULT)
    outbox.clear()
    assert list(tmp_path.iterdir()) == []
