"""Each ended job arrives at the collector as a part of its study's trace, at least once, and nothing waits for it."""

from __future__ import annotations

import datetime as dt
import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text

from db.errors import ConfigurationError, Reason
from db.jobs import claims, trace_queue
from db.models import Canary, Job, Process
from db.operations import alarms
from db.reports.versions import Draft
from db.session import transaction
from db.settings import Settings
from db.studies import lifecycle
from deploy.operate.doctor.doctor import finding_of
from deploy.operate.doctor.finding import Installation, Level
from deploy.operate.traces import collector_check, exporter
from deploy.operate.traces import sender as process
from deploy.operate.traces.sender import Sender
from tests.conftest import missing
from tests.integration.db.conftest import Arrivals
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.deploy.operate.traces.fake_collector import FakeCollector

#: Attributes of the patient and the sender in `Arrivals`, and words of the report.
PRIVATE = ("PHANTOM", "CT_ER", "No effusion", "Normal.")
SECONDS = {"headers": 0.001, "render": 0.002, "prompt": 0.0, "generation": 0.001, "generation_vision": 0.0005}
#: All that a collector may store.
ATTRIBUTES = {
    "prelim.study.id",
    "prelim.job.id",
    "prelim.job.state",
    "prelim.job.reason",
    "prelim.job.attempts",
    "prelim.revision",
    "prelim.priority",
    "prelim.report.version",
    "prelim.model.digest",
    "prelim.worker",
    "prelim.fence",
    "prelim.vision_seconds",
}


@pytest.fixture(autouse=True)
def _jobs_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_queue, "LAG_SECONDS", 0)


@pytest.fixture
def collector() -> Iterator[FakeCollector]:
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        missing("the extra `otel`")
    from tests.integration.deploy.operate.traces.fake_collector import FakeCollector

    with FakeCollector() as server:
        yield server


@pytest.fixture
def arrivals(database_url: str) -> Arrivals:
    return Arrivals(database_url)


def settings_of(collector: FakeCollector, url: str) -> Settings:
    return Settings(database_url=url, traces_url=collector.url)


def sender_of(collector: FakeCollector, url: str, name: str = "host:1") -> Sender:
    settings = settings_of(collector, url)
    made = Sender(settings, exporter.open_collector(settings))
    made._name = name
    return made


@pytest.fixture
def sender(collector: FakeCollector, database_url: str) -> Sender:
    """A sender that has begun: only jobs that end later are sent."""
    made = sender_of(collector, database_url)
    made.run_once()
    return made


def report(arrivals: Arrivals) -> claims.Claim:
    claim = arrivals.running_job()
    draft = Draft(
        "No effusion.", "Normal.", "1 of 1", "1", "digest", {"seconds": SECONDS, "parts": []}, limitations=[], images=[]
    )
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, draft)
    return claim


def figures(url: str) -> trace_queue.Figures:
    with transaction(url) as session:
        found = trace_queue.figures(session)
    assert found is not None
    return found


def attributes_of(span: Any) -> dict[str, Any]:
    from tests.integration.deploy.operate.traces.fake_collector import attributes

    return attributes(span)


def test_reported_study_is_a_trace_of_nested_steps_in_order(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals
) -> None:
    claim = report(arrivals)
    sender.run_once()
    (trace,) = collector.traces().items()
    spans = {span.name: span for span in trace[1].values()}

    assert trace[0] == claim.study_id.hex
    assert list(spans) == ["report", "settle", "wait", "write", "headers", "render", "prompt", "generation"]
    assert [name for name, span in spans.items() if not span.parent_span_id] == ["report"]
    for span in spans.values():
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
        if span.parent_span_id:
            parent = trace[1][span.parent_span_id]
            assert parent.start_time_unix_nano <= span.start_time_unix_nano
            assert span.end_time_unix_nano <= parent.end_time_unix_nano
    steps = [spans[name] for name in ("settle", "wait", "write")]
    assert all(a.end_time_unix_nano <= b.start_time_unix_nano for a, b in itertools.pairwise(steps))
    assert spans["wait"].end_time_unix_nano == spans["write"].start_time_unix_nano
    assert {attributes_of(each.resource)["service.name"] for each in collector.resources()} == {"prelim"}
    assert collector.paths == {"/v1/traces"}


def test_trace_holds_ids_and_codes_and_no_patient_data(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals
) -> None:
    claim = report(arrivals)
    sender.run_once()
    spans = {span.name: attributes_of(span) for span in collector.spans()}

    assert {name for found in spans.values() for name in found} == ATTRIBUTES - {"prelim.job.reason"}
    assert spans["report"]["prelim.job.id"] == str(claim.job_id)
    assert spans["report"]["prelim.model.digest"] == "digest"
    assert spans["write"] == {"prelim.worker": "test", "prelim.fence": 1}
    sent = b"".join(collector.batches)
    assert [word for word in (*PRIVATE, arrivals.uid) if word.encode() in sent] == []


def test_failure_is_an_error_with_its_code_and_without_its_text(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals
) -> None:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.fail(session, claim, Reason.UNEXPECTED, "text of PHANTOM")
    sender.run_once()
    root = collector.spans()[0]

    assert (root.status.code, root.status.message) == (2, "unexpected")
    assert {span.status.code for span in collector.spans()[1:]} == {0}
    assert b"PHANTOM" not in b"".join(collector.batches)


def test_job_that_is_retried_and_cancelled_is_a_second_part_without_a_claim(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals
) -> None:
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.fail(session, claim, Reason.UNEXPECTED, "")
    sender.run_once()
    for act in (claims.retry, claims.cancel):
        with transaction(arrivals.url) as session:
            act(session, lifecycle.find(session, arrivals.uid, lock=True))
    sender.run_once()

    assert collector.names() == [["report", "settle", "wait", "write", "report", "settle", "wait"]]


def test_outage_of_the_collector_loses_nothing_and_sends_nothing_twice(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals
) -> None:
    collector.faults[:] = [401, 302, 404]
    claim = report(arrivals)
    problems = []
    for _ in range(3):
        sender.run_once()
        problems.append(figures(arrivals.url).problem)
    waiting = figures(arrivals.url)
    sender.run_once()
    sender.run_once()

    assert problems == [f"the collector answered {status}" for status in (401, 302, 404)]
    assert (waiting.waiting, waiting.sent) == (1, 0)
    assert list(collector.traces()) == [claim.study_id.hex]
    assert len(collector.spans()) == 8
    assert figures(arrivals.url)[:5] == (1, 0, 0, "", 0)


def test_batch_whose_answer_was_lost_is_sent_again_as_the_same_spans(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals
) -> None:
    # The exporter repeats a broken connection once by itself.
    collector.faults[:] = ["lost", "lost", "lost"]
    report(arrivals)
    while figures(arrivals.url).waiting:
        sender.run_once()

    assert len(collector.batches) > 1
    assert len(set(collector.batches)) == 1
    assert len(collector.spans()) == 8 * len(collector.batches)
    assert [len(trace) for trace in collector.traces().values()] == [8]


def test_nothing_waits_for_a_collector_that_hangs(collector: FakeCollector, sender: Sender, arrivals: Arrivals) -> None:
    first = report(arrivals)
    collector.faults[:] = ["hang"]
    sending = threading.Thread(target=sender.run_once)
    sending.start()
    wait_until(lambda: not collector.faults, seconds=30)
    with transaction(arrivals.url) as session:
        session.execute(text("SET LOCAL lock_timeout = '1s'"))
        idle = (
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()"
        )
        assert session.scalar(text(idle)) == 0
        session.execute(text("SELECT 1 FROM jobs WHERE id = :id FOR UPDATE"), {"id": first.job_id})
        session.execute(text("SELECT 1 FROM trace_export FOR UPDATE"))
    report(Arrivals(arrivals.url))
    collector.released.set()
    sending.join()
    while figures(arrivals.url).waiting:
        sender.run_once()

    assert len(collector.traces()) == 2


def test_one_process_sends_and_another_takes_over(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals, database_url: str
) -> None:
    other = sender_of(collector, database_url, "host:2")
    report(arrivals)
    other.run_once()
    assert collector.batches == []
    # As after a kill: the turn ends by itself.
    with transaction(database_url) as session:
        session.execute(text("UPDATE trace_export SET lease_until = now()"))
    other.run_once()
    assert len(collector.traces()) == 1
    report(Arrivals(database_url))
    sender.run_once()
    assert len(collector.traces()) == 1
    other.close()
    sender.run_once()
    assert len(collector.traces()) == 2


def test_place_does_not_move_after_the_turn_has_ended(
    sender: Sender, arrivals: Arrivals, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = sender._collector.send

    def send_slowly(spans: Any) -> int:
        rejected = send(spans)
        with transaction(arrivals.url) as session:
            session.execute(text("UPDATE trace_export SET lease_until = now() - interval '1 second'"))
        return rejected

    monkeypatch.setattr(sender._collector, "send", send_slowly)
    report(arrivals)
    sender.run_once()

    assert figures(arrivals.url)[:5] == (0, 0, 0, "", 1)


def test_queue_is_bounded_by_the_age_of_the_jobs(collector: FakeCollector, sender: Sender, arrivals: Arrivals) -> None:
    collector.faults[:] = [401]
    report(arrivals)
    sender.run_once()
    with transaction(arrivals.url) as session:
        for column in ("queued_at", "claimed_at", "finished_at"):
            session.execute(text(f"UPDATE jobs SET {column} = {column} - interval '25 hours'"))
        session.execute(text("UPDATE trace_export SET until = until - interval '26 hours'"))
    recent = report(Arrivals(arrivals.url))
    sender.run_once()

    assert list(collector.traces()) == [recent.study_id.hex]
    assert figures(arrivals.url)[:5] == (1, 1, 0, "", 0)


def test_jobs_of_one_time_are_sent_once_each_in_small_batches(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals
) -> None:
    reported = [report(Arrivals(arrivals.url)) for _ in range(5)]
    with transaction(arrivals.url) as session:
        session.execute(text("UPDATE jobs SET finished_at = (SELECT max(finished_at) FROM jobs)"))
    sender._jobs = 1
    while figures(arrivals.url).waiting:
        sender.run_once()

    assert len(collector.batches) > 2
    assert set(collector.traces()) == {claim.study_id.hex for claim in reported}
    assert len(collector.spans()) == 5 * 8


def test_rejected_spans_are_counted(collector: FakeCollector, sender: Sender, arrivals: Arrivals) -> None:
    collector.faults[:] = ["reject"]
    report(arrivals)
    sender.run_once()

    assert figures(arrivals.url)[:5] == (1, 0, 1, "", 0)


def test_canaries_and_jobs_before_the_first_start_have_no_trace(
    collector: FakeCollector, arrivals: Arrivals, database_url: str
) -> None:
    report(arrivals)
    sender = sender_of(collector, database_url)
    sender.run_once()
    canary = Arrivals(database_url)
    with transaction(database_url) as session:
        session.add(Canary(study_instance_uid=canary.uid))
    report(canary)
    sender.run_once()

    assert collector.requests == 0
    assert figures(database_url).waiting == 0


def test_sending_that_is_switched_off_begins_anew(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals, database_url: str
) -> None:
    process.switch_off(settings_of(collector, database_url))
    with transaction(database_url) as session:
        assert trace_queue.figures(session) is None
    sender.run_once()
    report(arrivals)
    sender_of(collector, database_url).run_once()
    report(Arrivals(database_url))
    sender_of(collector, database_url).run_once()

    assert len(collector.traces()) == 1


def alarm(url: str, **values: Any) -> str:
    """Return the sentence of the alarm about traces; empty if it is not raised."""
    with transaction(url) as session:
        raised = alarms.raised(session, Settings(**values))
    return next((found.detail for found in raised if found.code == "traces_waiting"), "")


def let_time_pass(url: str, minutes: int) -> None:
    with transaction(url) as session:
        values = {"ago": dt.timedelta(minutes=minutes)}
        session.execute(text("UPDATE jobs SET finished_at = finished_at - CAST(:ago AS interval)"), values)
        session.execute(text("UPDATE trace_export SET until = until - CAST(:ago AS interval)"), values)


def test_collector_that_fails_for_long_raises_an_alarm_until_it_has_the_traces(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals
) -> None:
    collector.faults[:] = [401]
    report(arrivals)
    sender.run_once()
    assert alarm(arrivals.url) == "", "an outage of less than the alarms allow"
    let_time_pass(arrivals.url, 10)

    assert "waits for the collector for 10 min; the last problem: the collector answered 401" in alarm(arrivals.url)
    sender.run_once()
    assert alarm(arrivals.url) == ""
    let_time_pass(arrivals.url, 10)
    assert alarm(arrivals.url) == "", "no job waits"


def test_sender_that_was_stopped_raises_an_alarm_until_it_is_switched_off(
    collector: FakeCollector, sender: Sender, arrivals: Arrivals
) -> None:
    sender.close()
    report(arrivals)
    let_time_pass(arrivals.url, 10)
    assert "the sender may not run" in alarm(arrivals.url)

    process.switch_off(settings_of(collector, arrivals.url))
    assert alarm(arrivals.url) == ""


def test_sender_that_never_begins_raises_an_alarm(arrivals: Arrivals) -> None:
    with transaction(arrivals.url) as session:
        begun = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=10)
        session.add(Process(name="host:1", role="api", started_at=begun))

    assert "no trace was ever sent" in alarm(arrivals.url, traces_url="http://127.0.0.1:1")
    assert alarm(arrivals.url) == "", "no collector is configured"


def finding(settings: Settings) -> tuple[Level, str]:
    found = finding_of(collector_check.CHECKS[0], Installation(settings))
    return found.level, found.found


def test_doctor_names_what_the_sender_needs(collector: FakeCollector, arrivals: Arrivals, database_url: str) -> None:
    settings = settings_of(collector, database_url)
    assert finding(settings.replace(traces_url=None))[0] is Level.NOT_CHECKED
    assert finding(settings) == (Level.WARNING, "the collector answers, and no trace was ever sent to it")
    sender = sender_of(collector, database_url)
    sender.run_once()
    report(arrivals)
    assert finding(settings)[0] is Level.OK
    with transaction(database_url) as session:
        session.execute(text("UPDATE jobs SET finished_at = finished_at - interval '1 hour'"))
        session.execute(text("UPDATE trace_export SET until = until - interval '2 hours', problem = 'it answered 401'"))
    assert finding(settings) == (Level.WARNING, "jobs that wait: 1, the oldest for 60 min; it answered 401")
    sender.run_once()
    assert finding(settings) == (
        Level.OK,
        "the collector answers; jobs sent: 1, waiting: 0, skipped as too old: 0; spans rejected: 0",
    )


def test_address_and_variables_are_checked_at_the_start(
    collector: FakeCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    from deploy.operate.traces.collector import endpoint

    with pytest.raises(ConfigurationError, match="PRELIM_TRACES_URL is not set"):
        process.run(Settings())
    assert endpoint("http://host:4318/") == "http://host:4318/v1/traces"
    assert endpoint("https://[::1]/otlp/v1/traces") == "https://[::1]/otlp/v1/traces"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/none.pem")
    level, found = finding(Settings(traces_url=collector.url.replace("http", "https")))
    assert (level, "TLS" in found or "file" in found) == (Level.WARNING, True), found


@pytest.mark.slow
def test_sender_that_is_killed_at_any_time_loses_no_trace(
    collector: FakeCollector, sender: Sender, database_url: str
) -> None:
    sender.close()
    environment = os.environ | {"PRELIM_DATABASE_URL": database_url, "PRELIM_TRACES_URL": collector.url}
    code = (
        "from db.jobs import trace_queue; from deploy.operate.traces import sender\n"
        "trace_queue.LAG_SECONDS = 0; trace_queue.LEASE_SECONDS = 1; sender.POLL_SECONDS = 0.05\n"
        "from deploy.cli.app import app; app(['send-traces'])"
    )
    reported: list[claims.Claim] = []
    for _ in range(2):
        started = subprocess.Popen([sys.executable, "-c", code], env=environment)
        seen = len(collector.batches)
        reported += [report(Arrivals(database_url)) for _ in range(20)]
        wait_until(lambda seen=seen: len(collector.batches) > seen, seconds=60)
        started.send_signal(signal.SIGKILL)
        started.wait()
    wait_until(lambda: sender.run_once() >= 0 and figures(database_url).waiting == 0, seconds=30)

    assert set(collector.traces()) == {claim.study_id.hex for claim in reported}
    assert {len(trace) for trace in collector.traces().values()} == {8}


@pytest.mark.slow
def test_sender_ends_in_order_while_the_collector_is_away(database_url: str, collector: FakeCollector) -> None:
    collector.faults[:] = [503] * 1000
    environment = os.environ | {"PRELIM_DATABASE_URL": database_url, "PRELIM_TRACES_URL": collector.url}
    command = [sys.executable, "-m", "deploy.cli.entry", "send-traces"]
    started = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: _begun(database_url), seconds=60)
    with transaction(database_url) as session:
        session.execute(text("UPDATE trace_export SET until = now() - interval '1 hour'"))
    report(Arrivals(database_url))
    with transaction(database_url) as session:
        session.execute(text("UPDATE jobs SET finished_at = finished_at - interval '1 minute'"))
    wait_until(lambda: collector.requests > 1, seconds=60)
    started.terminate()
    errors = started.communicate(timeout=30)[1]

    assert started.returncode == 0, errors
    with transaction(database_url) as session:
        assert session.execute(text("SELECT owner FROM trace_export")).scalar_one() is None


def _begun(url: str) -> bool:
    with transaction(url) as session:
        return trace_queue.figures(session) is not None


def test_times_are_exact_to_the_microsecond(collector: FakeCollector, sender: Sender, arrivals: Arrivals) -> None:
    claim = report(arrivals)
    sender.run_once()
    with transaction(arrivals.url) as session:
        finished = session.scalars(select(Job.finished_at).where(Job.id == claim.job_id)).one()
    stamp = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(
        microseconds=collector.spans()[0].end_time_unix_nano // 1000
    )

    assert stamp == finished
