"""A worker whose PostgreSQL is lost in the middle of its work, while a standby without the last of it is promoted."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, make_url, select

from db.jobs.celery_app import make_app
from db.jobs.rescue import rescue
from db.migrations.upgrade import migrate
from db.models import Report, Study
from db.operations import invariants
from db.session import engine, transaction
from db.settings import Settings
from deploy.embedded.postgres import Postgres
from tests.integration.db.conftest import Arrivals
from tests.integration.db.test_promotion import reports
from tests.integration.worker.test_process import Writer
from tests.polling import wait_until
from tests.proxy import proxied
from tests.standby import READ_ONLY, Standby, promote
from worker import process
from worker.process import Worker

if TYPE_CHECKING:
    from pathlib import Path

    from db.reports.versions import Draft

STUDIES = 40


class SlowWriter(Writer):
    """Writes a report in a moment, so that some are unfinished at any time."""

    def write(self, *arguments: object) -> Draft:
        time.sleep(0.2)
        return super().write(*arguments)


@pytest.mark.slow
def test_work_goes_on_within_a_minute_after_the_primary_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process.logs, "configure", lambda _settings: None)
    monkeypatch.setattr(process, "POLL_SECONDS", 0.05)
    with Postgres(tmp_path / "primary") as primary:
        migrate(primary.url)
        for _ in range(STUDIES):
            Arrivals(primary.url).image()
        while Arrivals(primary.url).settle():
            pass
        with proxied(primary.port) as proxy, Standby(tmp_path / "standby", primary, proxy) as standby:
            place = make_url(primary.url)
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            url = f"postgresql+psycopg://{place.username}:{place.password}@{hosts}/{place.database}"
            settings = Settings(database_url=url, data_dir=tmp_path, worker_slots=2, lease_seconds=5)
            worker = Worker(settings, lambda _: SlowWriter(), make_app("redis://127.0.0.1:1/0"))
            worker.load()
            try:
                wait_until(lambda: reports(standby.url + READ_ONLY) > STUDIES // 4, 60)
                proxy.forwarding.clear()
                replicated = reports(standby.url + READ_ONLY)
                # Claims and ends of work that the standby does not know.
                wait_until(lambda: reports(primary.url) > replicated + 2, 60)
                assert reports(primary.url) < STUDIES, "the work is not finished"
                assert primary.process
                os.kill(primary.process.pid, signal.SIGKILL)
                promote(standby.url)

                wait_until(lambda: ended(standby.url) == STUDIES, 60)
            finally:
                worker._stopping.set()
                for thread in threading.enumerate():
                    if thread.name in ("_heartbeat", "_watchdog", "_poll", "overdue"):
                        thread.join(20)
            with transaction(standby.url) as session:
                assert invariants.check(session) == []
                assert session.scalar(select(func.count(Report.job_id.distinct()))) == STUDIES
            engine(settings.database()).dispose()
            engine(standby.url).dispose()
        engine(primary.url).dispose()


def ended(url: str) -> int:
    """Return the number of reported studies, after the rescue that a dispatcher makes in each round.

    A claim is on the standby without its end, or the worker never had the answer to it: it is work of nobody.
    """
    rescue(url, max_attempts=STUDIES)
    with transaction(url) as session:
        return session.scalar(select(func.count()).where(Study.state == "reported")) or 0
