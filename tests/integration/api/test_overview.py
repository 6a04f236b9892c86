from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from db.jobs import claims
from db.models import ReferenceCase, Study
from db.operations import heartbeats, overview
from db.operations.filters import Filters
from db.reports import versions
from db.session import transaction
from db.states import DisplayedState

if TYPE_CHECKING:
    from tests.integration.api.arrivals import Arrivals


@pytest.mark.parametrize("state", ["receiving", "queued", "running", "reported", "failed", "not_reportable"])
def test_displayed_state_follows_study_and_job(arrivals: Arrivals, state: str) -> None:
    study_id = getattr(arrivals, state)()

    with transaction(arrivals.url) as session:
        line = overview.study(session, study_id)
        counts = overview.counts(session)

    assert line is not None
    assert line.state == state
    assert counts == dict.fromkeys(DisplayedState, 0) | {state: 1}


def test_late_images_make_a_report_outdated_until_the_next_version(arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    arrivals.late_image(study_id)
    with transaction(arrivals.url) as session:
        late = overview.study(session, study_id)
    arrivals.settle_again(study_id)
    arrivals.report(study_id, arrivals.draft(basis="2 of 2 images"))
    with transaction(arrivals.url) as session:
        renewed = overview.study(session, study_id)

    assert late is not None
    assert late.report is not None
    assert (late.state, late.report.version, late.report.outdated) == ("receiving", 1, True)
    assert renewed is not None
    assert renewed.report is not None
    assert (renewed.state, renewed.report.version, renewed.report.outdated) == ("reported", 2, False)
    assert renewed.report.basis == "2 of 2 images"


def test_pages_return_every_study_once_newest_first(arrivals: Arrivals) -> None:
    made = [arrivals.receiving() for _ in range(7)]
    seen, after = [], None
    for expected in (3, 3, 1):
        with transaction(arrivals.url) as session:
            page = overview.page(session, limit=3, after=after)
        assert len(page.studies) == expected
        seen += [line.id for line in page.studies]
        after = page.following

    assert after is None
    assert seen == made[::-1]


def test_study_that_arrives_between_two_pages_shifts_nothing(arrivals: Arrivals) -> None:
    made = [arrivals.receiving() for _ in range(4)]
    with transaction(arrivals.url) as session:
        first = overview.page(session, limit=2)
    arrivals.receiving()
    with transaction(arrivals.url) as session:
        second = overview.page(session, limit=2, after=first.following)

    assert [line.id for line in first.studies + second.studies] == made[::-1]


def test_full_last_page_has_no_next(arrivals: Arrivals) -> None:
    for _ in range(2):
        arrivals.receiving()
    with transaction(arrivals.url) as session:
        assert overview.page(session, limit=2).following is None


def test_filtered_page_holds_one_state(arrivals: Arrivals) -> None:
    states = ("receiving", "queued", "running", "reported", "failed", "not_reportable")
    made = {state: [getattr(arrivals, state)()] for state in states}
    with transaction(arrivals.url) as session:
        pages = {state: overview.page(session, limit=9, filters=Filters(state=state)) for state in DisplayedState}

    shown = {state: [line.id for line in page.studies] for state, page in pages.items()}
    assert shown == {state: made.get(state, []) for state in DisplayedState}


def test_overview_of_an_empty_system_is_empty(database_url: str) -> None:
    with transaction(database_url) as session:
        system = overview.overview(session)

    assert sum(system.studies.values()) == 0
    assert (system.queue_depth, system.oldest_waiting_seconds, system.workers_alive, system.last_error) == (
        0,
        None,
        0,
        None,
    )


def test_overview_has_queue_workers_and_last_error(arrivals: Arrivals) -> None:
    arrivals.queued()
    arrivals.queued()
    arrivals.failed()
    latest = arrivals.failed()
    with transaction(arrivals.url) as session:
        heartbeats.record(session, heartbeats.Role.WORKER)
        system = overview.overview(session)

    assert (system.queue_depth, system.workers_alive) == (2, 1)
    assert system.oldest_waiting_seconds is not None
    assert 0 < system.oldest_waiting_seconds < 60
    assert system.last_error is not None
    assert (system.last_error.study_id, system.last_error.reason) == (latest, "broken")


def test_attempt_that_will_be_repeated_is_the_last_error(arrivals: Arrivals) -> None:
    study_id = arrivals.queued()
    claim = arrivals.claim(study_id)
    with transaction(arrivals.url) as session:
        claims.retry_later(session, claim, "out_of_memory", "the GPU was full", pause_seconds=5, max_attempts=3)
        error = overview.last_error(session)

    assert error is not None
    assert (error.study_id, error.reason) == (study_id, "out_of_memory")


def test_erased_reference_case_leaves_no_words(arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    with transaction(arrivals.url) as session:
        session.query(ReferenceCase).delete()
    with transaction(arrivals.url) as session:
        report = versions.current(session, study_id)
        assert report is not None
        (case,) = versions.evidence(session, report.id)

    assert (case.case_id, case.source) == (None, None)
    assert (case.excerpt, case.quoted) == ("", "")


def test_repr_of_a_study_holds_no_patient_data(arrivals: Arrivals) -> None:
    study_id = arrivals.receiving(patient_name="Doe^Jane", patient_id="P-17", accession_number="A-1")
    with transaction(arrivals.url) as session:
        shown = repr(overview.study(session, study_id))

    assert not [secret for secret in ("Doe", "P-17", "A-1", "19610203") if secret in shown]


def test_retry_by_an_operator_is_not_an_error(arrivals: Arrivals) -> None:
    study_id = arrivals.failed()
    with transaction(arrivals.url) as session:
        claims.retry(session, session.get_one(Study, study_id, with_for_update=True))
        assert overview.last_error(session) is None
