"""The worker process without Celery's command: jobs that no message announced."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from db.jobs.celery_app import make_app
from tests.integration.db.jobs.test_claims import DRAFT
from tests.polling import wait_until
from worker import process
from worker.process import Worker

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

    worker.load()
    try:
        wait_until(lambda: arrivals.state() == "reported", 20)
    finally:
        worker._stopping.set()  # worker.stop ends the process
        # Their connections must be returned before the database is dropped.
        for thread in threading.enumerate():
            if thread.name in ("_heartbeat", "_watchdog", "_poll", "overdue"):
                thread.join(20)
