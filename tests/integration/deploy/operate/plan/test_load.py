"""`prelim plan --from-database`: the load of the installation, and a replay of its own reports."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from db.errors import NotPossible
from db.jobs import claims
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.reports.versions import Draft
from db.session import reading, transaction
from deploy.operate.plan import aims, load, replayed
from tests.integration.db.conftest import Arrivals

if TYPE_CHECKING:
    from deploy.operate.plan.load import Load, Measured

WORKERS, SLOTS = 2, 2


def worker(url: str) -> None:
    with transaction(url) as session:
        for number in range(WORKERS):
            heartbeats.record(session, Role.WORKER, {"slots": SLOTS}, process=f"host:{number}")
        session.execute(text("UPDATE processes SET started_at = now() - interval '1 h'"))


def read(url: str) -> tuple[Load, Measured | None]:
    with reading(url) as session:
        return load.from_database(session)


def write_report(url: str, seconds: float) -> bool:
    """Claim a job and end it with a report after *seconds*, as a worker does; return whether there was one."""
    with transaction(url) as session:
        claim = claims.claim_next(session, owner="test", lease_seconds=30)
    if claim is None:
        return False
    time.sleep(seconds)
    with transaction(url) as session:
        claims.finish(session, claim, Draft("No effusion.", "Normal.", "1 of 1", "1", "d", {}))
    return True


def test_too_few_reports_are_refused(database_url: str) -> None:
    worker(database_url)
    with pytest.raises(NotPossible, match="20 reports"):
        read(database_url)


def test_load_has_the_sizes_hours_and_durations_of_the_database(database_url: str) -> None:
    worker(database_url)
    for _ in range(load.MIN_REPORTS):
        arrivals = Arrivals(database_url)
        arrivals.image(file_bytes=2000)
        arrivals.image(file_bytes=4000)
        arrivals.settle()
        assert write_report(database_url, 0)
    with transaction(database_url) as session:
        session.execute(
            text(
                "UPDATE jobs SET finished_at = now(), claimed_at = now() - interval '6 s',"
                " queued_at = now() - interval '8 s', priority = 2"
            )
        )
    found, measured = read(database_url)

    assert (found.studies, found.objects, found.bytes, found.slots) == (load.MIN_REPORTS, 2, 6000, SLOTS)
    # All at once, which no such workers do: what a report takes alone is not known.
    assert [priority for priority, _ in found.reports] == [2] * load.MIN_REPORTS
    assert not found.speed.is_known
    assert sum(found.hours) == pytest.approx(1)
    assert measured is not None
    assert (measured.workers.number, measured.workers.slots) == (WORKERS, SLOTS)
    assert measured.waits == pytest.approx([2.0] * load.MIN_REPORTS)


FILL = text("""
    WITH new AS (
        INSERT INTO studies (id, study_instance_uid, patient_id, patient_name, patient_birth_date, patient_sex,
            issuer_of_patient_id, accession_number, study_date, study_description, calling_ae_title, modality,
            body_part, priority, state, revision, settle_reason, settled_at, identity_number)
        SELECT uuidv7(), '2.25.7' || n, '', '', '', '', '', '', '', '', 'CT', 'CT', '', 0, 'reported', 1, 'quiet',
            now(), 1
        FROM generate_series(1, 20) AS n RETURNING id
    )
    INSERT INTO jobs (id, study_id, kind, revision, state, priority, fence, attempt, owner, queued_at, claimed_at,
        finished_at)
    SELECT uuidv7(), id, 'report', 1, 'finished', 0, 1, 1, 'host:0', now() - interval '9 s', now() - interval '5 s',
        now()
    FROM new
""")


def test_reports_whose_objects_were_deleted_count_with_the_assumed_size(database_url: str) -> None:
    worker(database_url)
    with transaction(database_url) as session:
        session.execute(FILL)
    found, measured = read(database_url)

    assert (found.bytes, found.objects) == (load.ASSUMED_BYTES, load.ASSUMED_OBJECTS)
    assert measured is not None
    assert measured.waits == pytest.approx([4.0] * 20)


def test_reports_after_late_images_count_for_each_study(database_url: str) -> None:
    worker(database_url)
    with transaction(database_url) as session:
        session.execute(FILL)
        # A second report of half of the studies.
        session.execute(
            text(
                "INSERT INTO jobs (id, study_id, kind, revision, state, priority, fence, attempt, owner, queued_at,"
                " claimed_at, finished_at) SELECT uuidv7(), study_id, kind, 2, state, priority, 1, 1, owner, queued_at,"
                " claimed_at, finished_at FROM jobs ORDER BY id LIMIT 10"
            )
        )
    found, _ = read(database_url)

    assert (found.studies, found.reports_per_study, found.jobs) == (20, 1.5, 30)
    assert found.days == 1


def test_reports_of_earlier_workers_are_not_replayed(database_url: str) -> None:
    worker(database_url)
    with transaction(database_url) as session:
        session.execute(FILL)
        session.execute(text("UPDATE processes SET started_at = now() - interval '4 s'"))

    assert read(database_url)[1] is None


def changed(url: str, change: str) -> tuple[Load, Measured | None]:
    """Return the plan of a database with 20 reports after a change."""
    worker(url)
    with transaction(url) as session:
        session.execute(FILL)
        session.execute(text(change))
    return read(url)


def test_jobs_whose_times_are_not_in_order_are_left_out_and_counted(database_url: str) -> None:
    # The clock of the database was set back while a job waited, while it ran, and after it ended.
    with transaction(database_url) as session:
        session.execute(text(str(FILL).replace("2.25.7", "2.25.8")))
    back = """
        UPDATE jobs SET claimed_at = claimed_at - CASE number WHEN 1 THEN interval '1 h' ELSE '0' END,
            finished_at = finished_at + CASE number WHEN 2 THEN interval '-6 s' WHEN 3 THEN '1 h' ELSE '0' END
        FROM (SELECT id AS one, row_number() OVER (ORDER BY id) AS number FROM jobs) AS numbered WHERE id = one
    """
    found, measured = changed(database_url, back)

    assert found.left_out == 3
    assert measured is not None
    assert len(measured.jobs) == 37


def test_attempt_after_an_expired_lease_is_replayed_from_its_claim(database_url: str) -> None:
    _, measured = changed(database_url, "UPDATE jobs SET attempt = 2, available_at = queued_at")

    assert measured is not None
    assert measured.waits == pytest.approx([0.0] * 20)


def test_attempt_after_a_pause_waits_from_the_end_of_the_pause(database_url: str) -> None:
    pause = "UPDATE jobs SET attempt = 2, available_at = queued_at + interval '3 s'"
    _, measured = changed(database_url, pause)

    assert measured is not None
    assert measured.waits == pytest.approx([1.0] * 20)


def test_reports_that_take_no_time_need_one_worker(database_url: str) -> None:
    found, measured = changed(database_url, "UPDATE jobs SET finished_at = now(), claimed_at = now()")

    assert aims.workers_needed(found) == 1
    assert measured is not None
    assert replayed.compare(measured)["ROUTINE"].jobs == 20


def test_reports_without_a_study_of_the_last_days_are_refused(database_url: str) -> None:
    with pytest.raises(NotPossible, match="a study of the last 28 days"):
        changed(database_url, "UPDATE studies SET first_received_at = now() - interval '29 days'")


@pytest.mark.parametrize(("most", "studies"), [(100, 12), (15, 8)])
def test_day_whose_studies_are_not_all_read_is_left_out(
    database_url: str, monkeypatch: pytest.MonkeyPatch, most: int, studies: int
) -> None:
    monkeypatch.setattr(load, "MAX_STUDIES", most)
    yesterday = """
        UPDATE studies SET first_received_at = date_trunc('day', now()) - interval '1 h'
        WHERE id IN (SELECT id FROM studies ORDER BY id LIMIT 12)
    """
    found, _ = changed(database_url, yesterday)

    assert found.studies == studies
    assert sum(found.hours) == pytest.approx(1)
