from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from db.jobs import claims
from db.models import ReferenceCase, Study
from db.operations import heartbeats, overview
from db.reports import versions
from db.session import transaction
from db.states import DisplayedState

if TYPE_CHECKING:
    from tests.integration.api.arrivals import Arrivals


@pytest.mark.parametrize("state", ["receiving", "queued", "running", "reported", "failed", "not_reportable"])
def test_a_study_is_shown_in_the_state_it_is_in(arrivals: Arrivals, state: str) -> None:
    study_id = getattr(arrivals, state)()

    with transaction(arrivals.url) as session:
        line = overview.study(session, study_id)
        counts = overview.counts(session)

    assert line is not None
    assert line.state == state
    assert counts == dict.fromkeys(DisplayedState, 0) | {state: 1}


def test_late_images_make_a_report_outdated_until_its_successor_is_there(arrivals: Arrivals) -> None:
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


def test_pages_give_every_study_once_the_newest_first(arrivals: Arrivals) -> None:
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


def test_a_study_that_arrives_while_someone_pages_shifts_nothing(arrivals: Arrivals) -> None:
    made = [arrivals.receiving() for _ in range(4)]
    with transaction(arrivals.url) as session:
        first = overview.page(session, limit=2)
    arrivals.receiving()
    with transaction(arrivals.url) as session:
        second = overview.page(session, limit=2, after=first.following)

    assert [line.id for line in first.studies + second.studies] == made[::-1]


def test_a_full_last_page_has_none_after_it(arrivals: Arrivals) -> None:
    for _ in range(2):
        arrivals.receiving()
    with transaction(arrivals.url) as session:
        assert overview.page(session, limit=2).following is None


def test_a_page_of_one_state_holds_only_that_state(arrivals: Arrivals) -> None:
    states = ("receiving", "queued", "running", "reported", "failed", "not_reportable")
    made = {state: [getattr(arrivals, state)()] for state in states}
    with transaction(arrivals.url) as session:
        pages = {state: overview.page(session, limit=9, state=state) for state in DisplayedState}

    shown = {state: [line.id for line in page.studies] for state, page in pages.items()}
    assert shown == {state: made.get(state, []) for state in DisplayedState}


def test_an_empty_house_has_nothing_to_say(database_url: str) -> None:
    with transaction(database_url) as session:
        house = overview.overview(session)

    assert sum(house.studies.values()) == 0
    assert (house.queue_depth, house.oldest_waiting_seconds, house.workers_alive, house.last_error) == (
        0,
        None,
        0,
        None,
    )


def test_the_overview_counts_queue_and_workers_and_names_the_last_error(arrivals: Arrivals) -> None:
    arrivals.queued()
    arrivals.queued()
    arrivals.failed()
    latest = arrivals.failed()
    with transaction(arrivals.url) as session:
        heartbeats.record(session, heartbeats.Role.WORKER)
        house = overview.overview(session)

    assert (house.queue_depth, house.workers_alive) == (2, 1)
    assert house.oldest_waiting_seconds is not None
    assert 0 < house.oldest_waiting_seconds < 60
    assert house.last_error is not None
    assert (house.last_error.study_id, house.last_error.reason) == (latest, "broken")


def test_a_try_that_will_be_repeated_is_an_error_too(arrivals: Arrivals) -> None:
    study_id = arrivals.queued()
    claim = arrivals.claim(study_id)
    with transaction(arrivals.url) as session:
        claims.retry_later(session, claim, "out_of_memory", "the GPU was full", pause_seconds=5, max_attempts=3)
        error = overview.last_error(session)

    assert error is not None
    assert (error.study_id, error.reason) == (study_id, "out_of_memory")


def test_erasing_a_reference_case_leaves_what_was_quoted_from_it(arrivals: Arrivals) -> None:
    study_id = arrivals.reported()
    with transaction(arrivals.url) as session:
        session.query(ReferenceCase).delete()
    with transaction(arrivals.url) as session:
        report = versions.current(session, study_id)
        assert report is not None
        (case,) = overview.evidence(session, report.id)

    assert (case.case_id, case.source) == (None, None)
    assert case.excerpt == "Clear lungs in an earlier case."


def test_patient_attributes_do_not_show_when_a_line_is_printed(arrivals: Arrivals) -> None:
    study_id = arrivals.receiving(patient_name="Doe^Jane", patient_id="P-17", accession_number="A-1")
    with transaction(arrivals.url) as session:
        shown = repr(overview.study(session, study_id))

    assert not [secret for secret in ("Doe", "P-17", "A-1", "19610203") if secret in shown]


def test_what_an_operator_did_is_no_error(arrivals: Arrivals) -> None:
    study_id = arrivals.failed()
    with transaction(arrivals.url) as session:
        claims.retry(session, session.get_one(Study, study_id, with_for_update=True))
        assert overview.last_error(session) is None
