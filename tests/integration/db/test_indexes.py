"""Queries that run often, or on request, use an index: their cost does not grow with the installation."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, select, text

from db.jobs import claims, trace_queue, wakeups, wrong_clock
from db.models import ReferenceCase, Study
from db.operations import outcomes, overview, quarantine, queue_figures, recall
from db.operations.alarms import raised
from db.operations.filters import Filters, Sort
from db.operations.totals import totals
from db.session import engine, transaction
from db.settings import Settings
from db.states import DisplayedState
from db.studies import lifecycle, settling
from deploy.operate.monitoring import timeline
from tests.integration.db.conftest import Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from sqlalchemy.orm import Session

CASE = uuid.UUID(int=7)
#: Tables whose rows are never removed.
GROWING = ("studies", "jobs", "reports", "instances", "report_evidence", "study_events", "commitments")


def _totals(session: Session) -> None:
    session.execute(text("UPDATE totals_until SET until = now() - interval '5 minutes'"))
    totals.add_latest(session)


def _study() -> Study:
    now = dt.datetime.now(dt.UTC)
    return Study(id=uuid.uuid4(), study_instance_uid="2.25.1", first_received_at=now, last_received_at=now)


def _traces_that_wait(session: Session) -> None:
    trace_queue.begin(session)
    trace_queue.figures(session)


QUERIES: dict[str, Callable[[Session], object]] = {
    "work list": lambda session: overview.page(session, limit=50),
    **{
        f"work list, {state}": lambda session, state=state: overview.page(  # type: ignore[misc]
            session, limit=50, filters=Filters(state=state)
        )
        for state in DisplayedState
    },
    **{
        f"work list by {name}": lambda session, chosen={name: value}: overview.page(  # type: ignore[misc]
            session, limit=50, filters=Filters(**chosen)
        )
        for name, value in {
            "modality": "CT",
            "body_part": "CHEST",
            "ae_title": "CT1",
            "study_date_from": "20260101",
            "study_date_to": "20260101",
            "patient_id": "P1",
            "accession_number": "A1",
            "study_instance_uid": "1.2",
            "description": "chest ct",
            "priority": 1,
            "attention": True,
            "unread": True,
            "ae_titles": frozenset({"CT1", "CT2"}),
        }.items()
    },
    **{
        f"work list in order of {sort}": lambda session, sort=sort: overview.page(session, limit=50, sort=sort)  # type: ignore[misc]
        for sort in Sort
    },
    "recall by case": lambda session: recall.reports(session, recall.Used(case_id=CASE), None, limit=50),
    "recall by model": lambda session: recall.reports(session, recall.Used(model_digest="d"), None, limit=50),
    "recall by prompt": lambda session: recall.reports(session, recall.Used(prompt_version="1"), ["CT1"], limit=50),
    "recall by draft": lambda session: recall.reports(session, recall.Used(specialist="net"), None, limit=50),
    "recall of answers by case": lambda session: recall.answers(session, recall.Used(case_id=CASE), None, limit=50),
    "recall of answers by model": lambda session: recall.answers(
        session, recall.Used(model_digest="d"), None, limit=50
    ),
    "recall of answers by prompt": lambda session: recall.answers(
        session, recall.Used(prompt_version="1"), ["CT1"], limit=50
    ),
    "recall of answers by specialist": lambda session: recall.answers(
        session, recall.Used(specialist="net"), None, limit=50
    ),
    "counts": overview.counts,
    "last error": overview.last_error,
    "alarms": lambda session: raised(session, Settings()),
    "outcomes": outcomes.latest,
    **{
        f"date to now: {kind}": lambda session, kind=kind: wrong_clock.date_some_to_now(session, kind, 30)  # type: ignore[misc]
        for kind in wrong_clock.DATED_LATER
    },
    "durations": queue_figures.durations,
    "waiting": queue_figures.waiting,
    "seconds of a report": overview._seconds_per_report,
    "find": lambda session: _found(session, "A1"),
    "totals": _totals,
    "traces that wait": _traces_that_wait,
    "trace": lambda session: timeline.of_study(session, _study()),
    "erase a reference case": lambda session: session.query(ReferenceCase).delete(),
}


def _found(session: Session, name: str) -> None:
    with pytest.raises(lifecycle.UnknownStudy):
        lifecycle.find(session, name)


@pytest.fixture
def session(database_url: str) -> Iterator[Session]:
    with transaction(database_url) as session:
        # An empty table would be read as a whole; with an index at hand this price forbids it.
        session.execute(text("SET LOCAL enable_seqscan = off"))
        yield session


@pytest.mark.parametrize("query", QUERIES)
def test_query_reads_no_growing_table_as_a_whole(session: Session, query: str) -> None:
    for plan in plans(session, QUERIES[query]):
        for table in GROWING:
            assert f"Seq Scan on {table}" not in plan, plan


def test_marks_of_a_list_are_found_by_indexes(session: Session) -> None:
    plan = "\n".join(plans(session, lambda session: overview.page(session, limit=50)))

    assert "audit_rows_opened" in plan
    assert [table for table in (*GROWING, "audit_rows", "report_findings") if f"Seq Scan on {table}" in plan] == []


def test_page_of_waiting_studies_reads_the_reports_of_the_shown_ones_only(database_url: str, session: Session) -> None:
    copy_study_and_job(database_url, "UPDATE jobs SET state = 'queued', finished_at = NULL", "ANALYZE")

    (plan,) = plans(session, lambda session: overview.page(session, limit=5, filters=Filters("queued")), "ANALYZE")

    reports = [line for line in plan.splitlines() if " on reports" in line]
    assert all("loops=6)" in line or "(never executed)" in line for line in reports), plan


@pytest.mark.parametrize(("flag", "index"), [("attention", "studies_attention"), ("unread", "studies_unread")])
def test_few_studies_with_a_flag_are_found_among_all_others_by_an_index(
    database_url: str, session: Session, flag: str, index: str
) -> None:
    copy_study_and_job(database_url, "ANALYZE")

    for mode in ("force_custom_plan", "force_generic_plan"):
        session.execute(text(f"SET LOCAL plan_cache_mode = {mode}"))
        (plan,) = plans(session, lambda session: overview.page(session, limit=5, filters=Filters(**{flag: True})))

        assert f"using {index} on studies" in plan


@pytest.mark.parametrize("ae_titles", [None, {"CT1"}])
def test_list_of_quarantine_is_read_in_its_order_from_an_index(session: Session, ae_titles: set[str] | None) -> None:
    session.execute(
        text(
            "INSERT INTO quarantine (id, file_path, file_bytes, sha256, reason, detail, received_at, calling_ae_title)"
            " SELECT uuidv7(), n, 1, '', 'unreadable', '', now() - n * interval '1 min', 'CT' || n % 3"
            " FROM generate_series(1, 2000) n"
        )
    )
    session.execute(text("ANALYZE quarantine"))
    (plan,) = plans(session, lambda session: quarantine.files(session, limit=50, ae_titles=ae_titles))

    assert "using quarantine_received on quarantine" in plan
    assert "Sort" not in plan


CLAIMS: dict[str, Callable[[Session], object]] = {
    "claim": lambda session: claims.claim_next(session, owner="w", lease_seconds=60),
    "claim beside others": lambda session: claims.claim_next(
        session, owner="w", lease_seconds=60, poison_candidates=False
    ),
    "next": wakeups.next_waiting,
}

#: Three queued jobs among ended ones.
COPY_STUDY_AND_JOB = (
    """
    INSERT INTO studies
    SELECT (jsonb_populate_record(studies, jsonb_build_object('id', uuidv7(), 'study_instance_uid', '2.25.' || n))).*
    FROM studies, generate_series(1, 600) AS n
    """,
    """
    INSERT INTO jobs
    SELECT (jsonb_populate_record(jobs, jsonb_build_object(
        'id', uuidv7(), 'study_id', studies.id, 'urgent_at', now() - random() * interval '1 day',
        'state', CASE WHEN studies.study_instance_uid IN ('2.25.1', '2.25.2') THEN 'queued' ELSE 'finished' END))).*
    FROM jobs, studies WHERE studies.id <> jobs.study_id
    """,
)


def copy_study_and_job(database_url: str, *statements: str) -> None:
    """Store a settled study and 600 copies of it, and execute *statements*."""
    arrivals = Arrivals(database_url)
    arrivals.image()
    arrivals.settle()
    with transaction(database_url) as session:
        for statement in (*COPY_STUDY_AND_JOB, *statements):
            session.execute(text(statement))


@pytest.mark.parametrize("query", CLAIMS)
def test_claim_reads_the_queue_in_its_order_after_statistics_of_a_short_one(
    database_url: str, session: Session, query: str
) -> None:
    copy_study_and_job(database_url, "ANALYZE jobs")

    (plan,) = plans(session, CLAIMS[query])

    assert "jobs_queued" in plan
    assert "Sort" not in plan, plan


def test_studies_are_compared_with_those_of_waiting_files_by_hash_in_a_generic_plan_too(session: Session) -> None:
    session.execute(text("SET LOCAL plan_cache_mode = force_generic_plan"))
    condition = select(Study.id).where(~settling.has_waiting_files(["0123456789abcdef"]))
    (plan,) = plans(session, lambda session: session.execute(condition))
    assert "(hashed SubPlan" in plan, plan


def plans(session: Session, query: Callable[[Session], object], option: str = "COSTS") -> list[str]:
    """Return the plan of each statement that *query* executes; the option ANALYZE adds what it reads."""
    executed: list[tuple[str, Any]] = []
    made = engine(session.get_bind().engine.url.render_as_string(hide_password=False))

    def note(_connection: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        executed.append((statement, parameters))

    event.listen(made, "before_cursor_execute", note)
    try:
        query(session)
    finally:
        event.remove(made, "before_cursor_execute", note)
    cursor = session.connection().connection.cursor()
    found = []
    for statement, parameters in executed:
        cursor.execute(f"EXPLAIN ({option}) {statement}", parameters)
        found.append("\n".join(row[0] for row in cursor.fetchall()))
    assert found
    return found


def test_few_studies_with_a_word_are_found_among_all_others_by_its_index(database_url: str, session: Session) -> None:
    copy_study_and_job(database_url, "UPDATE studies SET study_description = 'chest' || id", "ANALYZE")

    found = plans(session, lambda session: overview.page(session, limit=5, filters=Filters(description="rare")))

    # After a sample of the newest ones.
    assert "studies_description" in found[1]
    assert not any("studies_newest" in plan for plan in found[1:])
