"""Backups made while modalities send, workers write and processes are killed, restored in a scratch place."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select

from db.models import Instance, Job, Report, Study
from db.session import engine, transaction
from db.settings import Settings
from db.states import JobState
from deploy.embedded.postgres import Postgres
from deploy.operate import audit
from deploy.operate.backup import restore
from deploy.operate.backup.repository import Repository
from tests.chaos import nemesis
from tests.chaos.modality import History, Modality, plan
from tests.chaos.run import HARMLESS
from tests.chaos.system import System, running_system
from tests.chaos.test_chaos import attempts, endless, send, supervise_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    # pynetdicom, in the sending modality, forgets its socket when the listener is down.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
#: A worker that is never killed writes the one report that never ends, so each backup has a running job.
STARTED_FIRST = {"listener": "listener", "dispatcher-1": "dispatcher", "worker-3": "worker"}
KILLED = {"dispatcher-2": "dispatcher", "worker-1": "worker", "worker-2": "worker"}
FAULTS = (
    nemesis.kill_listener,
    nemesis.kill_listener_process,
    nemesis.kill_dispatcher,
    nemesis.kill_worker,
    nemesis.stop_worker,
    nemesis.kill_redis,
)
KEY = bytes(range(32))
STUDIES, SECONDS, BACKUPS = 40, 10.0, 2
#: Seconds between two faults: several in each backup.
BETWEEN_FAULTS = 0.3


class BackedUp(NamedTuple):
    """A backup, and what was there before it began."""

    name: str
    acknowledged: dict[str, str]
    reports: dict[Any, dict[str, Any]]


def rows(url: str, table: type[Any]) -> dict[Any, dict[str, Any]]:
    """Return the rows of a table by their id."""
    with transaction(url) as session:
        return {row.id: dict(row._mapping) for row in session.execute(select(table.__table__))}


def back_up(system: System, folder: Path, history: History, rng: random.Random) -> BackedUp:
    """Run `prelim backup` while processes are killed."""
    key = folder.with_name("backup.key")
    key.write_text(KEY.hex())
    acknowledged, reports = dict(history.acknowledged), rows(system.url, Report)
    command = [sys.executable, "-m", "deploy.cli.entry", "backup", str(folder), "--key-file", str(key)]
    with subprocess.Popen(
        command, env=os.environ | system.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while process.poll() is None:
            rng.choice(FAULTS)(system, rng)
            system.supervise_for(BETWEEN_FAULTS)
        output = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, output
    return BackedUp(Repository(folder, KEY).latest(), acknowledged, reports)


@contextmanager
def scratch(folder: Path) -> Iterator[Settings]:
    """An empty installation with a database of its own."""
    with Postgres(folder / "postgres") as postgres:
        yield Settings(data_dir=folder / "data", database_url=SecretStr(postgres.url))
        engine(postgres.url).dispose()


def restored_as_promised(copy: Settings, repository: Repository, backup: BackedUp) -> None:
    """Restore a backup; assert that it has what was acknowledged, and that no claim of before is valid."""
    restore.restore(copy, repository, backup.name)
    url = copy.database()
    running = {key: job for key, job in rows(url, Job).items() if job["state"] == JobState.RUNNING}
    violations = restore.finish(copy, Console(quiet=True), repository)

    digests = {row["sop_instance_uid"]: row["sha256"] for row in rows(url, Instance).values()}
    lost = {uid for uid, digest in backup.acknowledged.items() if digests.get(uid) != digest}
    assert lost == set()
    # Compares files with their rows, too.
    assert (violations, audit.check(copy)) == (0, [])
    assert backup.reports.items() <= rows(url, Report).items()
    assert running
    for job in running.values():
        assert_waits_again(url, job)


def assert_waits_again(url: str, running: dict[str, Any]) -> None:
    """Assert that a job of a running report is queued, unless images that were in the inbox began a revision."""
    job, study = rows(url, Job)[running["id"]], rows(url, Study)[running["study_id"]]
    is_current = study["revision"] == job["revision"]
    assert job["state"] == (JobState.QUEUED if is_current else JobState.SUPERSEDED)
    assert job["claim_token"] != running["claim_token"]


def started(system: System, rng: random.Random) -> None:
    """Send the study whose report never ends to the one worker, then start the processes that are killed."""
    send(system, [endless(plan(6, rng))], seconds=0)
    supervise_until(system, lambda: attempts(system) == 1, 60)
    system.roles.update(KILLED)
    for name in KILLED:
        system.start(name)


def test_backup_beside_faults_has_everything_acknowledged_before_it(tmp_path: Path) -> None:
    rng, history, folder = random.Random(1), History(), tmp_path / "backups"
    studies = plan(STUDIES, rng, HARMLESS)
    # Leases that outlast the kills: what a killed worker has claimed is running in the backup.
    with running_system(tmp_path / "system", dict(STARTED_FIRST), PRELIM_LEASE_SECONDS="20") as system:
        started(system, rng)
        modality = Modality("MODALITY", system.settings.dicom.dicom_port, studies, SECONDS, history)
        modality.start()
        supervise_until(system, lambda: len(rows(system.url, Report)) > 1, 60)
        made = [back_up(system, folder, history, rng) for _ in range(BACKUPS)]
        supervise_until(system, lambda: not modality.is_alive(), 120)

    for number, backup in enumerate(made):
        with scratch(tmp_path / f"scratch-{number}") as copy:
            restored_as_promised(copy, Repository(folder, KEY), backup)
