"""The worker process without Celery's command: jobs that no message announced, and failed jobs as failed tasks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from celery.contrib.testing.worker import start_worker

from db.jobs.celery_app import JOB_TASK, make_app
from db.operations.probes.status_socket import condition
from tests.integration.db.jobs.test_claims import DRAFT
from tests.polling import wait_until
from worker import process
from worker.claim_loop import JobFailed
from worker.process import Worker, add_task

if TYPE_CHECKING:
    import pytest

    from db.reports.versions import Draft
    from db.settings import Settings
    from tests.integration.db.conftest import Arrivals


class Writer:
    """Writes at once."""

    info: dict[str, Any] = {}  # noqa: RUF012 - never changed
    stalled_seconds = 0.0

    def write(self, *_: object) -> Draft:
        return DRAFT


def test_overdue_job_is_reported_without_a_broker(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(process, "OVERDUE_SECONDS", 0.0)
    # Cached loggers would keep the configuration for the tests after this one.
    monkeypatch.setattr(process.logs, "configure", lambda _settings: None)
    worker = Worker(settings, lambda _: Writer(), make_app("redis://127.0.0.1:1/0"))

    assert condition(worker.checks()) == (True, False, "the model is not loaded")
    worker.load()
    try:
        wait_until(lambda: arrivals.state() == "reported", 20)
        wait_until(lambda: condition(worker.checks()).ready, 20)
        monkeypatch.setattr(Writer, "stalled_seconds", 30.0)
        assert condition(worker.checks()) == (True, False, "the model has made no progress for 30 s")
    finally:
        worker._stopping.set()  # worker.stop ends the process
        assert condition(worker.checks()) == (True, False, "it is stopping")
        # Their connections must be returned before the database is dropped.
        for thread in threading.enumerate():
            if thread.name in ("_heartbeat", "_watchdog", "_poll", "overdue"):
                thread.join(20)


def test_failed_job_ends_its_celery_task_as_failure_with_the_reason_only(broker_url: str) -> None:
    app, events = make_app(broker_url), list[dict[str, Any]]()

    def report(_job_id: str) -> None:
        raise JobFailed("model_error: job 1")

    def failures() -> list[dict[str, Any]]:
        return [event for event in events if event["type"] == "task-failed"]

    add_task(app, report)
    with app.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"timeout": 60})
        thread.start()
        with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False, without_heartbeat=False):
            # Any event, such as a heartbeat of the worker: the receiver is connected.
            wait_until(lambda: events, 20)
            app.send_task(JOB_TASK, args=["1"])
            wait_until(failures, 20)
        receiver.should_stop = True
        thread.join(20)

    assert failures()[0]["exception"] == "JobFailed('model_error: job 1')"
    assert failures()[0]["traceback"] == ""
