"""States and reasons: complete, and found by the code that the database stores."""

from __future__ import annotations

import pickle

from db.errors import NotReportable, Reason
from db.states import OPEN_JOBS, DisplayedState, StudyState


def test_displayed_states_are_those_of_studies_and_open_jobs() -> None:
    assert set(DisplayedState) == {*StudyState, *OPEN_JOBS}


def test_reason_is_found_by_its_stored_code() -> None:
    assert Reason("lease_expired") is Reason.LEASE_EXPIRED
    assert pickle.loads(pickle.dumps(Reason.TRUNCATED)) is Reason.TRUNCATED


def test_every_reason_has_a_code_and_a_meaning() -> None:
    assert all(reason == reason.name.lower() and reason.meaning for reason in Reason)


def test_outcome_names_reason_and_detail() -> None:
    assert str(NotReportable(Reason.VIDEO, "the object is a video")) == "video: the object is a video"
