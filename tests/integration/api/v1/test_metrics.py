"""Metrics as a Prometheus server scrapes them."""

from __future__ import annotations

import datetime as dt
import gc
import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import select, text, update

from api.v1 import metrics
from db.access import audit_queue, keys
from db.jobs import trace_queue
from db.models import AuditRow, Canary, Job, Study
from db.operations import alarms, heartbeats
from db.session import transaction
from tests.certificates import write_certificate
from tests.exported_metrics import LABELS
from tests.unit.deploy.monitoring.test_alerts import CASES

if TYPE_CHECKING:
    from pathlib import Path

    from fastapi import FastAPI
    from prometheus_client import Metric

    from tests.integration.api.arrivals import Arrivals

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def scraped(client: TestClient, name: str) -> dict[str, float]:
    exported = client.get("/metrics").text
    family = next(family for family in text_string_to_metric_families(exported) if family.name == name)
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
    exported = anonymous.get("/metrics").text
    assert 'prelim_refusals_total{cause="the disk is full",kind="object"} 4.0' in exported
    assert 'prelim_associations_open{listener="host:1"} 7.0' in exported
    assert "CT_1" not in exported


def test_first_refusal_of_a_cause_has_its_age_although_its_counter_has_no_zero(
    anonymous: TestClient, database_url: str
) -> None:
    assert "prelim_refusal_age_seconds{" not in anonymous.get("/metrics").text
    with transaction(database_url) as session:
        for process, seconds in (("host:1", 500.0), ("host:2", 3.5)):
            info = {"open": 0, "causes": [["object", "the disk is full", 500, seconds]]}
            heartbeats.record(session, heartbeats.Role.LISTENER, info, process=process)

    assert 'prelim_refusal_age_seconds{cause="the disk is full",kind="object"} 3.5' in anonymous.get("/metrics").text


def test_counters_that_alerts_read_begin_with_zero(anonymous: TestClient, database_url: str) -> None:
    """`increase` of a series that begins with its first event is 0: the tests of the rules begin as it does."""
    with transaction(database_url) as session:
        trace_queue.begin(session)
    exported = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(anonymous)
        for sample in family.samples
    }
    counters = [
        series
        for cases in CASES.values()
        for case in cases
        for series in case.series
        if re.search(r"_(total|bucket|count)\b", series)
    ]

    assert len(counters) > 10
    for series in counters:
        name, _, labels = series.partition("{")
        pairs = frozenset(re.findall(r'(\w+)="([^"]*)"', labels)) - {("instance", "a"), ("instance", "b")}
        assert exported.get((name, pairs)) == 0, f"{series} is not exported before its first event"


def test_stalled_engines_are_counted_beyond_the_labelled_ones(anonymous: TestClient, database_url: str) -> None:
    insert = (
        "INSERT INTO processes (name, role, info)"
        " SELECT 'host:' || lpad(n::text, 4, '0'), 'worker', jsonb_build_object('engine',"
        " jsonb_build_object('running', 2, 'stalled_seconds', CASE WHEN n > 98 THEN 45.0 ELSE 0.2 END))"
        " FROM generate_series(1, 100) n"
    )
    with transaction(database_url) as session:
        session.execute(text(insert))

    assert "prelim_engines_running 200.0" in anonymous.get("/metrics").text
    assert "prelim_engines_stalled 2.0" in anonymous.get("/metrics").text
    assert max(scraped(anonymous, "prelim_engine_stalled_seconds").values()) < 1, "only the first have series"


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
    exported = anonymous.get("/metrics").text
    assert "prelim_disk_free_bytes " in exported
    assert "prelim_disk_free_inodes " in exported
    assert "prelim_disk_reserved_bytes 5.36870912e+08" in exported


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

    exported = anonymous.get("/metrics").text

    for line in (
        "prelim_queued_jobs 1.0",
        'prelim_report_seconds{quantile="0.95",step="wait"} 120.0',
        'prelim_report_seconds{quantile="0.5",step="write"} 60.0',
    ):
        assert line in exported
    assert "prelim_oldest_waiting_seconds" in exported


def test_broker_outage_of_a_process_is_measured(anonymous: TestClient, database_url: str) -> None:
    with transaction(database_url) as session:
        outage = {"error": "ReadOnlyError", "failures": 3, "seconds": 12}
        heartbeats.record(session, heartbeats.Role.WORKER, {"broker_outage": outage})
        heartbeats.record(session, heartbeats.Role.DISPATCHER, {"broker_outage": None}, process="other:1")

    assert scraped(anonymous, "prelim_broker_outage_seconds") == {heartbeats.name(): 12}


def families(client: TestClient) -> list[Metric]:
    return list(text_string_to_metric_families(client.get("/metrics").text))


def test_exactly_the_listed_metrics_and_labels_are_exported(
    anonymous: TestClient, arrivals: Arrivals, database_url: str, app: FastAPI
) -> None:
    app.state.settings.spool.mkdir()
    arrivals.reported()
    arrivals.failed()
    with transaction(database_url) as session:
        engine = dict.fromkeys(metrics.ENGINE, 1)
        heartbeats.record(session, heartbeats.Role.WORKER, {"engine": engine, "broker_outage": {"seconds": 1}})
        causes = [["object", "the disk is full", 4, 9.0]]
        info = {"open": 1, "limit": 9, "causes": causes, "certificate": certificate(days=10)}
        heartbeats.record(session, heartbeats.Role.LISTENER, info, process="host:1")
        session.add(Canary(study_instance_uid="2.25.1"))
        audit_queue.begin(session)
        trace_queue.begin(session)
    found = {
        family.name: {label for sample in family.samples for label in sample.labels} for family in families(anonymous)
    }

    assert found == LABELS


def test_series_do_not_grow_with_the_number_of_workers(anonymous: TestClient, database_url: str) -> None:
    engine = dict.fromkeys(metrics.ENGINE, 1)
    info = json.dumps({"engine": engine, "release": "1", "broker_outage": {"seconds": 1}})
    insert = (
        "INSERT INTO processes (name, role, info) SELECT 'host:' || n, 'worker', :info FROM generate_series(1, 10000) n"
    )
    before = sum(len(family.samples) for family in families(anonymous))
    with transaction(database_url) as session:
        session.execute(text(insert), {"info": info})
    after = sum(len(family.samples) for family in families(anonymous))

    assert after - before <= metrics.MAX_LABELLED * (len(metrics.ENGINE) + 2)
    assert scraped(anonymous, "prelim_processes_alive")["worker"] == 10_000


@pytest.mark.slow
def test_a_thousand_workers_that_came_and_went_leave_neither_series_nor_memory(
    anonymous: TestClient, database_url: str
) -> None:
    info = json.dumps({"engine": dict.fromkeys(metrics.ENGINE, 1), "release": "1"})
    come = text(
        "INSERT INTO processes (name, role, info)"
        " SELECT 'host:' || :round || '-' || n, 'worker', :info FROM generate_series(1, 100) n"
    )
    before, sizes = sum(len(family.samples) for family in families(anonymous)), []
    for number in range(10):
        with transaction(database_url) as session:
            session.execute(come, {"round": number, "info": info})
        assert 'prelim_processes_alive{role="worker"} 100.0' in anonymous.get("/metrics").text
        with transaction(database_url) as session:
            session.execute(text("UPDATE processes SET seen_at = now() - interval '1 h'"))
        anonymous.get("/metrics")
        gc.collect()
        sizes.append(len(gc.get_objects()))

    assert sum(len(family.samples) for family in families(anonymous)) - before < 20
    assert sizes[-1] - sizes[4] < 1000, "objects of Python; a series has some ten"


def certificate(*, days: float) -> dict[str, Any]:
    return {"ends": time.time() + days * 86400, "fingerprint": "f", "authorities": ""}


def test_first_end_of_the_certificates_that_listeners_serve_is_exported(
    anonymous: TestClient, app: FastAPI, database_url: str, tmp_path: Path
) -> None:
    # The file of the API may be another one, or a newer one that no listener has loaded.
    write_certificate(tmp_path / "certificate.pem", tmp_path / "key.pem", days=400)
    app.state.settings = app.state.settings.replace(tls_certificate=tmp_path / "certificate.pem")
    assert "prelim_certificate_remaining_seconds" not in anonymous.get("/metrics").text

    served = {"host:1": certificate(days=90), "host:2": certificate(days=20), "host:3": None}
    with transaction(database_url) as session:
        for process, each in served.items():
            heartbeats.record(session, heartbeats.Role.LISTENER, {"open": 0, "certificate": each}, process=process)
        # It serves its last associations, and no new one.
        replaced = {"open": 1, "draining": True, "certificate": certificate(days=2)}
        heartbeats.record(session, heartbeats.Role.LISTENER, replaced, process="host:4")
    name = "prelim_certificate_remaining_seconds"
    remaining = next(family for family in families(anonymous) if family.name == name).samples[0].value

    assert 19.9 * 86400 < remaining <= 20 * 86400
    assert scraped(anonymous, "prelim_alarm")["certificate_ends"] == 0


@pytest.mark.parametrize("days", [13, -1])
def test_certificate_that_ends_soon_is_an_alarm(anonymous: TestClient, database_url: str, days: int) -> None:
    with transaction(database_url) as session:
        info = {"open": 0, "certificate": certificate(days=days)}
        heartbeats.record(session, heartbeats.Role.LISTENER, info, process="host:1")

    assert scraped(anonymous, "prelim_alarm")["certificate_ends"] == 1
    assert "certificate_ends" in anonymous.get("/v1/health").json()["alarms"]


def test_metrics_need_a_key_with_their_scope_if_the_site_says_so(app: FastAPI, database_url: str, key: str) -> None:
    with transaction(database_url) as session:
        own = keys.create(session, "prometheus", ["metrics"])
    app.state.settings = app.state.settings.replace(metrics_access="key")
    client = TestClient(app)
    credentials = [{}, *({"Authorization": f"Bearer {one}"} for one in ("prelim_x", key, own))]
    answers = [client.get("/metrics", headers=each) for each in credentials]
    with transaction(database_url) as session:
        rows = session.execute(select(AuditRow.status, AuditRow.principal).order_by(AuditRow.sequence)).all()

    assert [answer.status_code for answer in answers] == [401, 401, 403, 200]
    assert "prelim_alarm" in answers[3].text
    assert all("prelim_alarm" not in answer.text for answer in answers[:3])
    assert rows == [(401, ""), (401, ""), (403, "key reading room")], "a scrape that is permitted reads no patient data"
