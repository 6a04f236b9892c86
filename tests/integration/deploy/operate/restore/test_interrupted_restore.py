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
from deploy.operate.doctor.finding import Installation, Level
from deploy.operate.erasure import erase
from tests.integration.deploy.operate.restore.place import (
    arrived,
    back_up,
    key_file,
    prelim,
)

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings
    from deploy.operate.backup.repository import Repository

#: Function of the module `restore` at whose first call the command is killed -> the database has its tables then.
STEPS = {
    "_compare": False,
    "dump.restoring": False,
    "migrate": True,
    "again.include": True,
    "audit.show": True,
    "erase.carry_out": True,
    "unfinished_restore.end": True,
}
KILL = """
import os, signal
from deploy.operate.backup import restore
def killed(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
restore.{step} = killed
"""


@pytest.fixture
def backup(settings: Settings, repository: Repository) -> str:
    """The older of two backups, between which a patient was erased."""
    quiet = Console(quiet=True)
    back_up(settings, repository)
    older = repository.latest()
    with reading(settings.database()) as session:
        (patient_id,) = session.scalars(select(Study.patient_id).distinct())
    erase.run(settings, quiet, patient_id, None, erase.show(settings, quiet, patient_id, None))
    arrived(settings)
    back_up(settings, repository)
    return older


def studies(settings: Settings) -> int:
    with reading(settings.database()) as session:
        return session.scalar(select(func.count()).select_from(Study)) or 0


@pytest.mark.slow
@pytest.mark.parametrize(("step", "has_tables"), STEPS.items())
def test_restore_killed_at_any_step_is_refused_until_it_is_completed(
    step: str, has_tables: bool, empty: Settings, repository: Repository, backup: str, tmp_path: Path
) -> None:
    arguments = "restore", str(tmp_path / "backups"), "--key-file", key_file(tmp_path), "--name", backup
    assert prelim(empty, *arguments, before=KILL.format(step=step)).returncode == -signal.SIGKILL

    command = "--finish" if has_tables else f"--name {backup}"
    with pytest.raises(ConfigurationError, match=f"{backup} was interrupted.*`prelim restore.* {command}`"):
        unfinished_restore.refuse(empty)
    finding = backup_check.examine_restore(Installation(empty))
    assert finding.level is Level.FAULT
    assert command in finding.remedy
    with pytest.raises(ConfigurationError, match="was interrupted"):
        back_up(empty, repository)

    if not has_tables:
        with pytest.raises(NotPossible, match="the database is empty"):
            restore.finish(empty, Console(quiet=True), repository)
        restore.restore(empty, repository, backup)
    assert restore.finish(empty, Console(quiet=True), repository) == 0
    unfinished_restore.refuse(empty)
    assert backup_check.examine_restore(Installation(empty)).level is Level.OK
    assert studies(empty) == 0, "the erased patient is back"


@pytest.mark.slow
def test_processes_refuse_a_database_whose_restore_was_interrupted(
    empty: Settings, repository: Repository, backup: str
) -> None:
    restore.restore(empty, repository, backup)

    # A worker without a queue would be refused for that.
    broker = "import os; os.environ['PRELIM_BROKER_URL'] = 'redis://127.0.0.1:1/0'"
    for process in ("migrate", "dispatch", "work", "serve", "up"):
        refused = prelim(empty, process, before=broker if process == "work" else "")
        assert refused.returncode == 2, (process, refused.stderr)
        assert "was interrupted" in refused.stderr + refused.stdout, process
    restore.finish(empty, Console(quiet=True), repository)
    assert prelim(empty, "migrate").returncode == 0
