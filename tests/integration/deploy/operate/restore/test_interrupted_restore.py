"""A restore that was killed at any step keeps processes out of its database until it is completed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from sqlalchemy import func, select

from db.errors import ConfigurationError, NotPossible
from db.models import Study
from db.session import reading
from deploy.launcher import unfinished_restore
from deploy.operate.backup import backup_check, restore
from deploy.operate.backup.repository import Repository
from deploy.operate.doctor.finding import Installation, Level
from deploy.operate.erasure import erase
from tests.integration.deploy.operate.restore.place import (
    KEY,
    arrived,
    back_up,
    empty_place,
    installation,
    key_file,
    prelim,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings
    from deploy.embedded.postgres import Postgres

#: Function of the module `restore` at whose first call the command is killed -> the database has its tables then.
STEPS = {
    "_compare": False,
    "dump.restoring": False,
    "migrate": True,
    "again.include": True,
    "audit.show": True,
    "erase.resume": True,
    "unfinished_restore.end": True,
}
KILL = """
import os, signal
from deploy.operate.backup import restore
def killed(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
restore.{step} = killed
"""


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "backups", KEY)


@pytest.fixture
def backup(tmp_path: Path, database_url: str, repository: Repository) -> str:
    """The older of two backups, between which a patient was erased."""
    settings, quiet = installation(tmp_path / "data", database_url), Console(quiet=True)
    back_up(settings, repository)
    older = repository.latest()
    with reading(database_url) as session:
        (patient_id,) = session.scalars(select(Study.patient_id).distinct())
    erase.run(settings, quiet, patient_id, "", erase.show(settings, quiet, patient_id, ""))
    arrived(settings)
    back_up(settings, repository)
    return older


@pytest.fixture
def place(tmp_path: Path, postgres: Postgres) -> Iterator[Settings]:
    with empty_place(tmp_path / "empty", postgres) as empty:
        yield empty


def studies(settings: Settings) -> int:
    with reading(settings.database()) as session:
        return session.scalar(select(func.count()).select_from(Study)) or 0


@pytest.mark.slow
@pytest.mark.parametrize(("step", "has_tables"), STEPS.items())
def test_restore_killed_at_any_step_is_refused_until_it_is_completed(
    step: str, has_tables: bool, place: Settings, repository: Repository, backup: str, tmp_path: Path
) -> None:
    arguments = "restore", str(tmp_path / "backups"), "--key-file", key_file(tmp_path), "--name", backup
    assert prelim(place, *arguments, before=KILL.format(step=step)).returncode == -signal.SIGKILL

    command = "--finish" if has_tables else f"--name {backup}"
    with pytest.raises(ConfigurationError, match=f"{backup} was interrupted.*`prelim restore.* {command}`"):
        unfinished_restore.refuse(place)
    finding = backup_check.examine_restore(Installation(place))
    assert finding.level is Level.FAULT
    assert command in finding.remedy
    with pytest.raises(ConfigurationError, match="was interrupted"):
        back_up(place, repository)

    if not has_tables:
        with pytest.raises(NotPossible, match="the database is empty"):
            restore.finish(place, Console(quiet=True), repository)
        restore.restore(place, repository, backup)
    assert restore.finish(place, Console(quiet=True), repository) == 0
    unfinished_restore.refuse(place)
    assert backup_check.examine_restore(Installation(place)).level is Level.OK
    assert studies(place) == 0, "the erased patient is back"


@pytest.mark.slow
def test_processes_refuse_a_database_whose_restore_was_interrupted(
    place: Settings, repository: Repository, backup: str
) -> None:
    restore.restore(place, repository, backup)

    # A worker without a queue would be refused for that.
    broker = "import os; os.environ['PRELIM_BROKER_URL'] = 'redis://127.0.0.1:1/0'"
    for process in ("migrate", "dispatch", "work", "serve", "up"):
        refused = prelim(place, process, before=broker if process == "work" else "")
        assert refused.returncode == 2, (process, refused.stderr)
        assert "was interrupted" in refused.stderr + refused.stdout, process
    restore.finish(place, Console(quiet=True), repository)
    assert prelim(place, "migrate").returncode == 0
