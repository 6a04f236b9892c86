"""`prelim list` and `prelim retry --reason`."""

from __future__ import annotations

import datetime as dt
import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from db.errors import ConfigurationError, Reason, UnknownStudy
from db.jobs import claims
from db.operations.filters import Filters
from db.session import engine, reading, transaction
from db.settings import Settings
from db.studies import lifecycle
from deploy.operate import study_list
from tests.integration.db.conftest import Arrivals

if TYPE_CHECKING:
    import uuid


def failed(url: str, reason: Reason) -> uuid.UUID:
    claim = Arrivals(url).running_job()
    with transaction(url) as session:
        claims.fail(session, claim, reason, "detail")
    return claim.study_id


def listed(url: str, filters: Filters, limit: int = 50) -> list[dict[str, Any]]:
    console = Console(file=io.StringIO(), width=200)
    study_list.show(Settings(database_url=url), console, filters, limit=limit, as_json=True)
    return list(json.loads(console.file.getvalue()))  # type: ignore[attr-defined]


def test_list_is_filtered_by_state_reason_and_modality(database_url: str) -> None:
    lost, wrong = failed(database_url, Reason.WORKER_LOST), failed(database_url, Reason.UNEXPECTED)

    assert {line["id"] for line in listed(database_url, Filters(state="failed"))} == {str(lost), str(wrong)}
    assert [line["id"] for line in listed(database_url, Filters(reason="worker_lost"))] == [str(lost)]
    assert listed(database_url, Filters(state="reported")) == []
    assert listed(database_url, Filters(modality="XX")) == []
    assert len(listed(database_url, Filters(), limit=1)) == 1


def test_list_shows_no_patient(database_url: str) -> None:
    failed(database_url, Reason.UNEXPECTED)
    console = Console(file=io.StringIO(), width=80)

    study_list.show(Settings(database_url=database_url), console, Filters(), limit=5, as_json=False)

    assert "body part ┃ report ┃" in console.file.getvalue(), "cut at the width of the console"  # type: ignore[attr-defined]
    shown = console.file.getvalue() + json.dumps(listed(database_url, Filters()))  # type: ignore[attr-defined]
    assert "failed" in shown
    assert "patient" not in shown.lower()
    assert "accession" not in shown.lower()


def test_times_have_a_zone_and_are_the_same_moments_in_every_zone(database_url: str) -> None:
    arrivals = Arrivals(database_url)
    arrivals.image(study=lifecycle.StudyAttributes(arrivals.uid, study_date="20260112"))
    berlin = f"{database_url}?options=-c%20TimeZone%3DEurope/Berlin"
    moments, printed = [], []
    for url in (database_url, berlin):
        (line,) = listed(url, Filters())
        moments.append(dt.datetime.fromisoformat(line["received_at"]))
        console = Console(file=io.StringIO(), width=200)
        study_list.show(Settings(database_url=url), console, Filters(), limit=5, as_json=False)
        printed.append(console.file.getvalue())  # type: ignore[attr-defined]
        with reading(url) as session:
            assert lifecycle.find(session, arrivals.uid).study_date == "20260112"
        engine(url).dispose()

    assert moments[0] == moments[1]
    assert moments[0].utcoffset() != moments[1].utcoffset()
    assert "UTC" in printed[0]
    assert "CE" in printed[1], "CET or CEST"


def test_unknown_state_is_rejected_with_the_known_ones(database_url: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown state 'done'.*reported"):
        listed(database_url, Filters(state="done"))


def test_retry_by_reason_queues_all_studies_with_that_reason(database_url: str) -> None:
    ids = [failed(database_url, Reason.WORKER_LOST) for _ in range(3)]
    other = failed(database_url, Reason.UNEXPECTED)
    console = Console(file=io.StringIO())

    assert study_list.retry_all(Settings(database_url=database_url), console, "worker_lost") == 0
    assert "3 of 3" in console.file.getvalue()  # type: ignore[attr-defined]
    assert {line["id"] for line in listed(database_url, Filters(state="queued"))} == set(map(str, ids))
    assert [line["id"] for line in listed(database_url, Filters(state="failed"))] == [str(other)]
    assert study_list.retry_all(Settings(database_url=database_url), console, "worker_lost") == 1


def test_ambiguous_name_lists_the_studies(database_url: str) -> None:
    studies = [failed(database_url, Reason.UNEXPECTED) for _ in range(2)]
    with transaction(database_url) as session:
        for study in studies:
            lifecycle.find(session, str(study)).accession_number = "ACC-TWICE"

    with transaction(database_url) as session, pytest.raises(UnknownStudy) as raised:
        lifecycle.find(session, "ACC-TWICE")

    assert all(str(study) in str(raised.value) for study in studies)
    assert "2 studies match" in str(raised.value)
