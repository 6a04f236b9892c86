"""Work without progress raises an alarm that names the remedy."""

from __future__ import annotations

import datetime as dt
import io
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import func, text

from db.jobs import claims
from db.models import Backup, Process, Study
from db.operations import alarms, outcomes, overview
from db.operations.heartbeats import Role
from db.session import transaction
from db.settings import Settings
from db.studies import lifecycle
from deploy.operate import status
from tests.integration.db.jobs.test_claims import DRAFT

if TYPE_CHECKING:
    from tests.integration.db.conftest import Arrivals


def raised(url: str) -> list[str]:
    with transaction(url) as session:
        return [alarm.code for alarm in alarms.raised(session, Settings(alarm_seconds=300, settle_cap_seconds=5400))]


def record_heartbeat(url: str, role: Role) -> None:
    """Record a heartbeat under another name: this process can have one role only."""
    with transaction(url) as session:
        session.merge(Process(name=f"host:{role}", role=role, info={"slots": 2}))


def silence(url: str, role: Role) -> None:
    with transaction(url) as session:
        session.execute(text("UPDATE processes SET seen_at = seen_at - interval '1 h' WHERE role = :r"), {"r": role})


def let_time_pass(url: str) -> None:
    with transaction(url) as session:
        session.execute(text("UPDATE jobs SET queued_at = queued_at - interval '1 h'"))
        session.execute(text("UPDATE jobs SET available_at = available_at - interval '1 h'"))
        session.execute(text("UPDATE studies SET last_received_at = last_received_at - interval '1 h'"))


def fail(arrivals: Arrivals, times: int) -> None:
    """Let more studies arrive and fail."""
    for _ in range(times):
        claim = type(arrivals)(arrivals.url).running_job()
        with transaction(arrivals.url) as session:
            claims.fail(session, claim, "reference_index", "the index cannot be read")


def report(arrivals: Arrivals) -> None:
    """Let one more study arrive and get its report."""
    claim = type(arrivals)(arrivals.url).running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT)


def expire_leases(url: str, ago: str) -> None:
    with transaction(url) as session:
        session.execute(
            text("UPDATE jobs SET lease_until = clock_timestamp() - CAST(:ago AS interval) WHERE state = 'running'"),
            {"ago": ago},
        )


def set_growth(url: str, seconds: float) -> None:
    with transaction(url) as session:
        session.execute(
            text("UPDATE studies SET revision_started_at = clock_timestamp() - make_interval(secs => :seconds)"),
            {"seconds": seconds},
        )


@pytest.fixture
def staffed(arrivals: Arrivals) -> Arrivals:
    """Installation with a worker and a dispatcher alive."""
    record_heartbeat(arrivals.url, Role.WORKER)
    record_heartbeat(arrivals.url, Role.DISPATCHER)
    return arrivals


@pytest.fixture
def waiting(arrivals: Arrivals) -> Arrivals:
    """Report that has waited for an hour; the dispatcher is alive."""
    record_heartbeat(arrivals.url, Role.DISPATCHER)
    arrivals.image()
    arrivals.settle()
    let_time_pass(arrivals.url)
    return arrivals


def test_idle_installation_has_no_alarm(database_url: str) -> None:
    assert raised(database_url) == []


def test_short_wait_raises_no_alarm(staffed: Arrivals) -> None:
    staffed.image()
    staffed.settle()

    assert raised(staffed.url) == []


def test_waiting_report_without_a_worker_raises_an_alarm(waiting: Arrivals) -> None:
    assert raised(waiting.url) == ["no_worker"]


def test_workers_without_claims_raise_an_alarm(waiting: Arrivals) -> None:
    record_heartbeat(waiting.url, Role.WORKER)

    assert raised(waiting.url) == ["nothing_claimed"]


def test_claims_without_reports_raise_an_alarm(waiting: Arrivals) -> None:
    record_heartbeat(waiting.url, Role.WORKER)
    type(waiting)(waiting.url).image()
    waiting.settle()
    let_time_pass(waiting.url)
    waiting.claim()

    assert raised(waiting.url) == ["nothing_written"]


def test_moving_queue_raises_no_alarm(waiting: Arrivals) -> None:
    record_heartbeat(waiting.url, Role.WORKER)
    type(waiting)(waiting.url).image()
    waiting.settle()
    let_time_pass(waiting.url)
    claim = waiting.claim()
    assert claim is not None
    with transaction(waiting.url) as session:
        claims.finish(session, claim, DRAFT)

    assert raised(waiting.url) == []


def test_older_snapshot_of_the_index_that_serves_raises_an_alarm(database_url: str) -> None:
    for name, damaged in (("host:1", ""), ("host:2", "20261128T100000000000")):
        with transaction(database_url) as session:
            session.merge(Process(name=name, role=Role.WORKER, info={"damaged_snapshot": damaged}))
        assert ("index_damaged" in raised(database_url)) == bool(damaged)


def test_files_that_cannot_be_read_raise_an_alarm(database_url: str) -> None:
    info = {"unreadable": {"files": 3, "error": "Input/output error"}}
    with transaction(database_url) as session:
        session.merge(Process(name="host:1", role=Role.DISPATCHER, info=info))

    assert raised(database_url) == ["files_unreadable"]


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_checkpoint_that_changed_on_disk_raises_an_alarm(database_url: str, name: str) -> None:
    with transaction(database_url) as session:
        session.merge(Process(name="host:1", role=Role.WORKER, info={"checkpoint_damaged": name}))

    assert ("checkpoint_damaged" in raised(database_url)) == bool(name)


@pytest.mark.parametrize(("seconds", "codes"), [(None, []), (5000, []), (6000, ["nothing_indexed"])])
def test_received_file_that_waits_very_long_raises_an_alarm(
    database_url: str, seconds: float | None, codes: list[str]
) -> None:
    with transaction(database_url) as session:
        session.merge(Process(name="host:1", role=Role.DISPATCHER, info={"oldest_waiting_seconds": seconds}))

    assert raised(database_url) == codes


def test_study_without_a_dispatcher_raises_an_alarm(arrivals: Arrivals) -> None:
    arrivals.image()
    assert raised(arrivals.url) == ["no_dispatcher"]

    record_heartbeat(arrivals.url, Role.DISPATCHER)
    assert raised(arrivals.url) == []


def test_worker_without_a_dispatcher_raises_an_alarm(database_url: str) -> None:
    record_heartbeat(database_url, Role.WORKER)

    assert raised(database_url) == ["no_dispatcher"]


def test_silent_dispatcher_raises_an_alarm(database_url: str) -> None:
    record_heartbeat(database_url, Role.DISPATCHER)
    assert raised(database_url) == []

    silence(database_url, Role.DISPATCHER)
    assert raised(database_url) == ["no_dispatcher"]


def test_three_failed_studies_in_a_row_raise_an_alarm(staffed: Arrivals) -> None:
    fail(staffed, 2)
    assert raised(staffed.url) == []

    fail(staffed, 1)
    assert raised(staffed.url) == ["everything_fails"]


def test_report_that_a_wrong_clock_has_dated_later_hides_no_failures(staffed: Arrivals) -> None:
    report(staffed)
    with transaction(staffed.url) as session:
        session.execute(text("UPDATE jobs SET finished_at = now() + interval '9 h'"))
    fail(staffed, 3)

    assert raised(staffed.url) == ["everything_fails"]
    with transaction(staffed.url) as session:
        assert [found.reason for found in outcomes.latest(session)] == ["reference_index"]


def test_report_after_failures_ends_the_alarm(staffed: Arrivals) -> None:
    fail(staffed, 4)
    report(staffed)

    assert raised(staffed.url) == []


def test_failures_after_a_report_raise_the_alarm(staffed: Arrivals) -> None:
    report(staffed)
    fail(staffed, 3)

    assert raised(staffed.url) == ["everything_fails"]


def test_retried_studies_raise_no_alarm(staffed: Arrivals) -> None:
    fail(staffed, 3)
    with transaction(staffed.url) as session:
        for study in session.query(Study).with_for_update():
            claims.retry(session, study)

    assert raised(staffed.url) == []


def test_failed_revisions_of_one_study_raise_no_alarm(staffed: Arrivals) -> None:
    for _ in range(3):
        claim = staffed.running_job()
        with transaction(staffed.url) as session:
            claims.fail(session, claim, "prompt_too_long", "the prompt is too long")

    assert raised(staffed.url) == []


def test_old_failures_raise_no_alarm(staffed: Arrivals) -> None:
    fail(staffed, 3)
    with transaction(staffed.url) as session:
        session.execute(text("UPDATE studies SET first_received_at = first_received_at - interval '25 h'"))

    assert raised(staffed.url) == []


def test_not_reportable_and_cancelled_studies_are_no_failures(staffed: Arrivals) -> None:
    for _ in range(3):
        claim = type(staffed)(staffed.url).running_job()
        with transaction(staffed.url) as session:
            claims.not_reportable(session, claim, "no_pixels", "the images contain no pixel data")
        cancelled = type(staffed)(staffed.url)
        cancelled.running_job()
        with transaction(staffed.url) as session:
            claims.cancel(session, lifecycle.find(session, cancelled.uid, lock=True))

    assert raised(staffed.url) == []


def test_expired_lease_without_rescue_raises_an_alarm(staffed: Arrivals) -> None:
    staffed.running_job()
    expire_leases(staffed.url, "290 s")
    assert raised(staffed.url) == []

    expire_leases(staffed.url, "301 s")
    assert raised(staffed.url) == ["not_rescued"]

    silence(staffed.url, Role.DISPATCHER)
    assert raised(staffed.url) == ["not_rescued", "no_dispatcher"]


def test_unsettled_study_raises_an_alarm(staffed: Arrivals) -> None:
    staffed.image()
    set_growth(staffed.url, 5400 + 290)
    assert raised(staffed.url) == []

    set_growth(staffed.url, 5400 + 301)
    assert raised(staffed.url) == ["nothing_settled"]

    staffed.settle()
    assert raised(staffed.url) == []


def test_status_prints_alarm_and_remedy_without_patient_data(staffed: Arrivals) -> None:
    fail(staffed, 3)
    settings = Settings(database_url=SecretStr(staffed.url))
    console = Console(file=io.StringIO(), width=200, record=True)
    status.show(settings, console, as_json=False)

    alarm = next(line for line in console.export_text().splitlines() if line.startswith("ALARM"))
    assert "everything_fails" in alarm
    assert "`prelim retry`" in alarm
    assert "PHANTOM" not in alarm


def test_every_alarm_has_a_known_code(staffed: Arrivals) -> None:
    fail(staffed, 3)
    staffed.running_job()
    expire_leases(staffed.url, "1 h")
    growing = type(staffed)(staffed.url)
    growing.image()
    set_growth(staffed.url, 7200)
    silence(staffed.url, Role.DISPATCHER)

    codes = raised(staffed.url)
    assert codes == ["everything_fails", "not_rescued", "no_dispatcher", "nothing_settled"]
    assert set(codes) <= set(alarms.CODES)


def test_forecast_has_position_and_seconds(arrivals: Arrivals) -> None:
    record_heartbeat(arrivals.url, Role.WORKER)
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT)
        session.execute(text("UPDATE jobs SET claimed_at = finished_at - interval '10 s'"))
    queue = [type(arrivals)(arrivals.url) for _ in range(3)]
    for study in queue:
        study.image()
        study.settle()

    with transaction(arrivals.url) as session:
        ids = [lifecycle.find(session, study.uid).id for study in queue]
        forecasts = [overview.forecast(session, study_id) for study_id in ids]
        assert overview.forecast(session, claim.study_id) is None

    # Both slots are busy for 10 s, then take the first two jobs for 10 s each, then the third.
    assert [(f.position, f.seconds) for f in forecasts if f] == [(1, 20), (2, 20), (3, 30)]


def test_old_or_unverified_backup_raises_its_alarm_once_there_is_one(database_url: str) -> None:
    now, week = dt.datetime.now(dt.UTC), dt.timedelta(days=9)

    def backed_up(name: str, ended: dt.datetime, verified: dt.datetime | None) -> list[str]:
        with transaction(database_url) as session:
            session.add(Backup(name=name, begun_at=ended, ended_at=ended, files=1, bytes=1, verified_at=verified))
        return [code for code in raised(database_url) if code.startswith("backup")]

    assert backed_up("1", now - week, None) == ["backup_overdue"]
    assert backed_up("2", now, None) == ["backup_unverified"]
    assert backed_up("3", now, now) == []


def test_what_a_wrong_clock_has_dated_into_the_future_silences_no_alarm(arrivals: Arrivals) -> None:
    arrivals.image()
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE studies SET first_received_at = now() - interval '9 days'"))
        ahead = dt.datetime.now(dt.UTC) + dt.timedelta(days=300)
        session.add(Backup(name="1", begun_at=ahead, ended_at=ahead, files=1, bytes=1, verified_at=ahead))
    assert raised(arrivals.url).count("backup_overdue") == 1

    with transaction(arrivals.url) as session:
        now = dt.datetime.now(dt.UTC)
        session.add(Backup(name="2", begun_at=now, ended_at=now, files=1, bytes=1, verified_at=None))
        session.execute(text("UPDATE backups SET ended_at = now() - interval '9 days' WHERE name = '1'"))
        session.execute(text("UPDATE backups SET begun_at = ended_at WHERE name = '1'"))
    assert raised(arrivals.url).count("backup_unverified") == 1


def test_installation_in_use_without_a_backup_raises_the_alarm_after_as_long_as_between_two(arrivals: Arrivals) -> None:
    arrivals.image()

    def used_for(days: int) -> list[str]:
        with transaction(arrivals.url) as session:
            session.execute(text(f"UPDATE studies SET first_received_at = now() - interval '{days} days'"))
        return [code for code in raised(arrivals.url) if code.startswith("backup")]

    assert used_for(7) == []
    assert used_for(9) == ["backup_overdue"]
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE studies SET first_received_at = now()"))
        # Older studies were deleted by a rule.
        session.execute(
            text(
                "INSERT INTO audit_chains (number, process, started_at, heads, previous, hash)"
                " VALUES (1, 'a', now() - interval '9 days', '{}', '', '')"
            )
        )
    assert raised(arrivals.url).count("backup_overdue") == 1


def test_every_host_with_a_gpu_lost_by_a_worker_of_an_earlier_release_is_named(database_url: str) -> None:
    lost = {"slots": 2, "gpu_lost": True}
    with transaction(database_url) as session:
        for name in ("gpu-2:1", "gpu-1:1", "gpu-1:2", "gpu-3:1"):
            times = {name: func.now() - dt.timedelta(minutes=ago) for name, ago in (("started_at", 60), ("seen_at", 5))}
            session.merge(Process(name=name, role=Role.WORKER, info=lost, **times))
        session.merge(Process(name="gpu-3:2", role=Role.WORKER, info={"slots": 2}))
    with transaction(database_url) as session:
        found = {alarm.code: alarm.detail for alarm in alarms.raised(session, Settings())}

    assert "on gpu-1, gpu-2:" in found["gpu_lost"]
