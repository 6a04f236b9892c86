"""Servers that began while the database did not answer end once it does, if its restore was interrupted."""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from db.jobs.celery_app import make_app
from db.session import engine, limit_statements, transaction
from db.settings import Settings
from deploy.launcher import unfinished_restore
from tests.integration.deploy.operate.restore.place import prelim
from worker import process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 60
BACKUP = "20260101T000000.000000Z"
#: Lets a server begin as beside a database that does not answer, without Redis; the alarm ends one that goes on.
NO_ANSWER = f"""
import os, signal
signal.alarm({SECONDS})
os.environ["PRELIM_BROKER_URL"] = "redis://127.0.0.1:1/0"
from deploy.launcher import lost_database, pooling, unfinished_restore
for module, name in (
    (unfinished_restore, "refuse"), (lost_database, "refuse_lost_database"), (pooling, "refuse_shared_sessions")
):
    setattr(module, name, lambda *_, **__: None)
"""


class Writer:
    """Has no work."""

    stalled_seconds = 0.0

    @property
    def info(self) -> dict[str, Any]:
        return {}

    def write(self, *_: object) -> None:
        raise AssertionError("a job of the restored database was claimed")


@pytest.fixture
def place(tmp_path: Path, database_url: str) -> Iterator[Settings]:
    """An installation whose restore was interrupted."""
    unfinished_restore.begin(database_url, BACKUP)
    yield Settings(data_dir=tmp_path, database_url=database_url)
    unfinished_restore.end(database_url)


def work(settings: Settings) -> None:
    process.Worker(settings, lambda _: Writer(), make_app("redis://127.0.0.1:1/0")).load()
    time.sleep(SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("server", ["dispatch", "serve"])
def test_server_that_began_before_its_database_ends(place: Settings, server: str) -> None:
    ended = prelim(place, server, before=NO_ANSWER)

    assert ended.returncode == 2, ended.stderr
    assert f"the restore of backup {BACKUP} was interrupted" in ended.stderr + ended.stdout
    assert "--finish" in ended.stderr + ended.stdout
    with transaction(place.database()) as session:
        assert session.scalar(text("SELECT count(*) FROM processes")) == 0, "it has used the database"


def test_worker_that_began_before_its_database_ends(place: Settings) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=work, args=(place,), daemon=True)
    worker.start()
    worker.join(SECONDS)

    assert worker.exitcode == 2


def test_command_reads_a_database_whose_restore_was_interrupted(place: Settings) -> None:
    """`prelim restore --finish` and `prelim doctor` must."""
    with transaction(place.database()) as session:
        assert session.scalar(text("SELECT count(*) FROM studies")) == 0


def test_server_uses_a_database_whose_restore_is_complete(place: Settings) -> None:
    unfinished_restore.end(place.database())
    limit_statements(place)
    engine(place.database()).dispose()
    with transaction(place.database()) as session:
        assert session.scalar(text("SELECT count(*) FROM studies")) == 0
