"""Metrics as a Prometheus server scrapes them."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from db.models import Job, Study
from db.operations import alarms, heartbeats
from db.session import transaction

if TYPE_CHECKING:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from tests.integration.api.arrivals import Arrivals

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def scraped(client: TestClient, name: str) -> dict[str, float]:
    text = client.get("/metrics").text
    family = next(family for family in text_string_to_metric_families(text) if family.name == name)
    return {value: sample.value for sample in family.samples for value in sample.labels.values()}


def test_every_alarm_has_a_metric_before_it_is_raised(anonymous: TestClient) -> None:
    assert scraped(anonymous, "prelim_alarm") == dict.fromkeys(alarms.CODES, 0)


def test_pending_work_without_a_worker_raises_its_alarm_metric(
    anonymous: TestClient, arrivals: Arrivals, database_url: str
) -> None:
    arrivals.queued()
    with transaction(database_url) as session:
        session.execute(update(Job).values(queued_at=LONG_AGO, available_at=LONG_AGO))
    raised = {"no_worker": 1, "no_dispatcher": 1}
    assert scraped(anonymous, "prelim_alarm") == dict.fromkeys(alarms.CODES, 0) | raised


def test_unsettled_study_raises_its_alarm_metric(anonymous: TestClient, arrivals: Arrivals, database_url: str) -> None:
    arrivals.receiving()
    with transaction(database_url) as session:
        heartbeats.record(session, heartbeats.Role.DISPATCHER)
        session.execute(update(Study).values(revision_started_at=LONG_AGO))
    assert scraped(anonymous, "prelim_alarm") == dict.fromkeys(alarms.CODES, 0) | {"nothing_settled": 1}


def test_studies_and_processes_are_counted(anonymous: TestClient, arrivals: Arrivals, database_url: str) -> None:
    arrivals.queued()
    with transaction(database_url) as session:
        heartbeats.record(session, heartbeats.Role.WORKER)
    assert scraped(anonymous, "prelim_studies")["queued"] == 1
    assert scraped(anonymous, "prelim_processes_alive") == {
        "worker": 1,
        "dispatcher": 0,
        "listener": 0,
        "api": 0,
    }


def test_refusals_are_counted_by_kind_and_cause_only(anonymous: TestClient, database_url: str) -> None:
    causes = [["limit", "limit of associations reached", 12, 3.0], ["object", "the disk is full", 4, 9.0]]
    info = {"open": 7, "limit": 100, "refused": [["CT_1", "the disk is full", 4]], "causes": causes}
    with transaction(database_url) as session:
        heartbeats.record(session, heartbeats.Role.LISTENER, info, process="host:1")
    text = anonymous.get("/metrics").text
    assert 'prelim_refusals_total{cause="the disk is full",kind="object"} 4.0' in text
    assert 'prelim_associations_open{listener="host:1"} 7.0' in text
    assert "CT_1" not in text


def test_processes_of_a_listener_have_their_own_associations_and_one_limit(
    anonymous: TestClient, database_url: str
) -> None:
    parent = {"process": "host:1", "open": 5, "processes": 2}
    with transaction(database_url) as session:
        for number, open_ in ((2, 3), (3, 2)):
            causes = [["object", "the disk is full", number, 3.0]]
            info = {"open": open_, "limit": 100, "parent": parent, "draining": number == 3, "causes": causes}
            heartbeats.record(session, heartbeats.Role.LISTENER, info, process=f"host:{number}")
    assert scraped(anonymous, "prelim_associations_open") == {"host:2": 3, "host:3": 2}
    assert scraped(anonymous, "prelim_associations_limit") == {"host:1": 100}
    # Each reports the refusals of all, one a little later than the other.
    assert 'prelim_refusals_total{cause="the disk is full",kind="object"} 3.0' in anonymous.get("/metrics").text
    assert anonymous.get("/v1/health").json()["listeners"] == [
        {"process": "host:2", "open_associations": 3, "draining": False},
        {"process": "host:3", "open_associations": 2, "draining": True},
    ]


def test_ended_jobs_are_counted_by_reason(anonymous: TestClient, arrivals: Arrivals) -> None:
    arrivals.reported()
    arrivals.failed()
    ended = scraped(anonymous, "prelim_ended_last_hour")
    assert ended.pop("reported") == 1
    assert list(ended.values()) == [1]


def test_disk_of_the_spool_is_measured(anonymous: TestClient, app: FastAPI) -> None:
    app.state.settings.spool.mkdir()
    text = anonymous.get("/metrics").text
    assert "prelim_disk_free_bytes " in text
    assert "prelim_disk_free_inodes " in text
    assert "prelim_disk_reserved_bytes 5.36870912e+08" in text


def test_engine_figures_are_labelled_by_worker(anonymous: TestClient, arrivals: Arrivals, database_url: str) -> None:
    del arrivals
    with transaction(database_url) as session:
        heartbeats.record(
            session, heartbeats.Role.WORKER, {"slots": 4, "engine": {"queued": 3, "rows": 4, "tokens_per_second": 41.5}}
        )
    assert scraped(anonymous, "prelim_engine_queued") == {heartbeats.name(): 3}
    assert scraped(anonymous, "prelim_engine_tokens_per_second") == {heartbeats.name(): 41.5}
    assert scraped(anonymous, "prelim_engine_kv_tokens") == {}


def test_metrics_hold_no_patient_data(anonymous: TestClient, arrivals: Arrivals) -> None:
    arrivals.queued()
    assert "PHANTOM" not in anonymous.get("/metrics").text


def test_queue_and_durations_of_reports_are_measured(
    anonymous: TestClient, arrivals: Arrivals, database_url: str
) -> None:
    assert "prelim_report_seconds{" not in anonymous.get("/metrics").text
    arrivals.reported()
    minutes = dt.timedelta(minutes=1)
    with transaction(database_url) as session:
        taken = {"queued_at": Job.finished_at - 3 * minutes, "claimed_at": Job.finished_at - minutes}
        session.execute(update(Job).values(taken))
    arrivals.queued()

    text = anonymous.get("/metrics").text

    for line in (
        "prelim_queued_jobs 1.0",
        'prelim_report_seconds{quantile="0.95",step="wait"} 120.0',
        'prelim_report_seconds{quantile="0.5",step="write"} 60.0',
    ):
        assert line in text
    assert "prelim_oldest_waiting_seconds" in text


def test_broker_outage_of_a_process_is_measured(anonymous: TestClient, database_url: str) -> None:
    with transaction(database_url) as session:
        outage = {"error": "ReadOnlyError", "failures": 3, "seconds": 12}
        heartbeats.record(session, heartbeats.Role.WORKER, {"broker_outage": outage})
        heartbeats.record(session, heartbeats.Role.DISPATCHER, {"broker_outage": None}, process="other:1")

    assert scraped(anonymous, "prelim_broker_outage_seconds") == {heartbeats.name(): 12}
