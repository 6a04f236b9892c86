"""An attempt that stores the images of its report in files, however it ends."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from sqlalchemy import delete, select

from db.errors import StaleFence
from db.jobs import claims
from db.models import Job, ReportImage
from db.reports import image_files
from db.session import transaction
from db.settings import Settings
from deploy.operate import audit, report_images
from tests.conftest import REPOSITORY
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.worker.conftest import written
from worker.claim_loop import ClaimLoop

if TYPE_CHECKING:
    from pathlib import Path

    from db.reports.versions import Draft
    from tests.integration.db.conftest import Arrivals
    from worker.pipeline.pipeline import StudyToReport

#: A worker that is killed when its files are durable and the transaction with their rows is open.
KILLED = """
import os, signal, sys
from db.jobs import claims
from db.settings import Settings
from tests.integration.worker.conftest import written
from worker.claim_loop import ClaimLoop
finish = claims.finish
def killed(*arguments):
    finish(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
claims.finish = killed
settings = Settings(data_dir=sys.argv[1], database_url=sys.argv[2], report_images="files", lease_seconds=30)
ClaimLoop(settings).run_once(written)
"""


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    url = SecretStr(database_url)
    return Settings(data_dir=tmp_path, database_url=url, report_images="files", retry_seconds=60)


def files(settings: Settings) -> list[Path]:
    return sorted((settings.operations.data_dir / image_files.FOLDER).rglob("*.png"))


def unused(settings: Settings) -> list[str]:
    return [violation.rule for violation in report_images.violations(settings, None, None)]


def test_images_of_a_report_are_written_to_files(arrivals: Arrivals, settings: Settings) -> None:
    assert ClaimLoop(settings).run_once(written) == "finished"

    with transaction(arrivals.url) as session:
        image = session.scalars(select(ReportImage)).one()
    assert (image.png, image.file_bytes) == (None, 3)
    assert [settings.operations.data_dir / str(image.file_path)] == files(settings)
    assert files(settings)[0].read_bytes() == b"png"
    assert unused(settings) == []


def test_worker_killed_before_the_commit_leaves_a_file_that_the_audit_removes(
    arrivals: Arrivals, settings: Settings
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, settings.operations.data_dir, arrivals.url], check=False, cwd=REPOSITORY
    )
    assert ended.returncode == -signal.SIGKILL
    assert len(files(settings)) == 1
    assert unused(settings) == [], "its claim still runs"

    with transaction(arrivals.url) as session:
        job = session.scalars(select(Job)).one()
        job.state, job.lease_until, job.owner = "queued", None, None
    assert ClaimLoop(settings).run_once(written) == "finished"

    [violation] = report_images.violations(settings, None, None)
    assert violation.rule == report_images.UNUSED
    assert audit.repair_violation(settings, violation)
    assert len(files(settings)) == 1
    assert unused(settings) == []


def test_job_taken_away_while_its_images_are_stored_leaves_no_file(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(*_: Any) -> None:
        with transaction(arrivals.url) as session:
            session.scalars(select(Job)).one().fence += 1
            session.scalars(select(Job)).one().claim_token = None
        raise StaleFence

    monkeypatch.setattr(claims, "finish", stale)

    assert ClaimLoop(settings).run_once(written) == "stale"
    assert files(settings) == []


def test_job_lost_by_a_failover_while_its_images_are_stored_leaves_no_file(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> None:
        with transaction(arrivals.url) as session:
            session.execute(delete(Job))
        raise StaleFence

    monkeypatch.setattr(claims, "finish", lost)

    assert ClaimLoop(settings).run_once(written) == "stale"
    assert files(settings) == []


def test_files_of_a_report_whose_commit_was_not_confirmed_are_kept(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = claims.finish

    def finish_twice(_session: Any, *arguments: Any) -> None:
        with transaction(arrivals.url) as other:
            finish(other, *arguments)
        with transaction(arrivals.url) as again:
            finish(again, *arguments)

    monkeypatch.setattr(claims, "finish", finish_twice)

    assert ClaimLoop(settings).run_once(written) == "stale"
    assert arrivals.state() == "reported"
    assert len(files(settings)) == 1
    assert unused(settings) == []


def test_refused_report_leaves_no_file(arrivals: Arrivals, settings: Settings) -> None:
    def empty(_study: StudyToReport, _on_progress: Any) -> Draft:
        return replace(DRAFT, findings="\0", impression="")

    assert ClaimLoop(settings).run_once(empty) == "failed"
    assert arrivals.state() == "failed"
    assert files(settings) == []


def test_full_disk_fails_the_attempt_with_its_reason_and_a_later_one_succeeds(
    arrivals: Arrivals, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        assert ClaimLoop(settings).run_once(written) == "retry"
    with transaction(arrivals.url) as session:
        job = session.scalars(select(Job)).one()
        assert (job.reason, job.detail) == (
            "images_not_written",
            "the disk refuses the images of the report: No space left on device",
        )
        job.available_at = job.queued_at

    assert ClaimLoop(settings).run_once(written) == "finished"
    assert len(files(settings)) == 1
