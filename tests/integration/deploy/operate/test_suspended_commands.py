"""A command that is suspended in the middle of a write delays the others by 10 s at most."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from db.jobs import claims
from db.session import reading, transaction
from db.settings import Settings
from deploy.launcher import lost_database
from tests.conftest import REPOSITORY
from tests.integration.db.conftest import Arrivals
from tests.polling import wait_until
from tests.services import database_named, execute

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.embedded.postgres import Postgres

#: Of db.migrations.env, which cannot be imported.
MIGRATION_LOCK = 0x5052454C
#: A command that is suspended, as by Ctrl-Z or a virtual machine, after its first statement that changes a row.
SUSPENDED = """
import os, signal, sys
from sqlalchemy import Engine, event

def suspend(connection, cursor, statement, *_):
    if statement.lstrip().startswith(("UPDATE", "DELETE", "INSERT")):
        os.kill(os.getpid(), signal.SIGSTOP)

event.listen(Engine, "after_cursor_execute", suspend)
from deploy.cli.entry import main
sys.argv[0] = "prelim"
main()
"""


@pytest.fixture
def arrivals(database_url: str) -> Arrivals:
    """A study without images to show, that failed a year ago, and one that is arriving."""
    failed = Arrivals(database_url)
    claim = failed.running_job()
    with transaction(database_url) as session:
        claims.fail(session, claim, "reference_index", "the index cannot be read")
        session.execute(text("UPDATE jobs SET finished_at = finished_at - interval '1 year'"))
        session.execute(
            text(
                "UPDATE studies SET last_received_at = last_received_at - interval '1 year',"
                " settled_at = settled_at - interval '1 year'"
            )
        )
    arrivals = Arrivals(database_url)
    arrivals.image()
    return arrivals


@contextmanager
def running(url: str, folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PRELIM_DATABASE_URL": url, "PRELIM_DATA_DIR": str(folder)}
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=REPOSITORY, env=environment, stdin=pipe, stdout=pipe, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def seconds_until_all_can_be_changed(url: str) -> float:
    def change() -> bool:
        try:
            with transaction(url) as session:
                session.execute(text("UPDATE studies SET detail = 'changed'"))
        except OperationalError:  # waited too long
            return False
        return True

    begun = time.monotonic()
    wait_until(change, 20)
    return time.monotonic() - begun


def is_suspended(process: subprocess.Popen[str]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize(
    "command",
    [["settle", "STUDY"], pytest.param(["retain", "--older-than", "100d", "--without-report"], marks=pytest.mark.slow)],
)
def test_suspended_command_delays_the_others_by_10_s_at_most(
    arrivals: Arrivals, tmp_path: Path, command: list[str]
) -> None:
    arguments = [arrivals.uid if word == "STUDY" else word for word in command]
    # As the dispatcher notes it: no object is stored.
    lost_database.accept(Settings(data_dir=tmp_path, database_url=SecretStr(arrivals.url)))
    with running(arrivals.url, tmp_path, "-c", SUSPENDED, *arguments) as process:
        wait_until(lambda: is_suspended(process), 60)

        assert 0.5 < seconds_until_all_can_be_changed(arrivals.url) < 10


@pytest.mark.slow
def test_console_whose_user_thinks_after_a_change_delays_the_others_by_10_s_at_most(
    arrivals: Arrivals, tmp_path: Path
) -> None:
    with running(arrivals.url, tmp_path, "-m", "deploy.operate.shell", arrivals.uid) as console:
        assert console.stdin
        assert console.stdout
        console.stdin.write("study.detail = 'x'; session.flush(); print('sent', flush=True)\n")
        console.stdin.flush()
        assert console.stdout.readline().endswith("sent\n")

        assert 0.5 < seconds_until_all_can_be_changed(arrivals.url) < 10


@pytest.mark.slow
def test_suspended_migration_delays_the_next_one_by_10_s_at_most(postgres: Postgres, tmp_path: Path) -> None:
    name = f"migration_{uuid.uuid4().hex}"
    execute(postgres, f"CREATE DATABASE {name}")
    url = database_named(postgres, name)
    with running(url, tmp_path, "-c", SUSPENDED, "migrate") as process:
        wait_until(lambda: is_suspended(process), 60)
        begun = time.monotonic()
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
            lock = "SELECT pg_try_advisory_lock(%s)"
            wait_until(lambda: connection.execute(lock, (MIGRATION_LOCK,)).fetchone() == (True,), 20)
            seconds = time.monotonic() - begun

    # Without the end of the suspended process: the limit is 9 s.
    assert 0.5 < seconds < 10


def test_reading_may_take_minutes_and_writes_nothing(database_url: str) -> None:
    with reading(database_url) as session:
        limits = [session.scalar(text(f"SHOW {name}_timeout")) for name in ("statement", "transaction")]
        with pytest.raises(Exception, match="read-only transaction"):
            session.execute(text("DELETE FROM processes"))
        session.rollback()
    with transaction(database_url) as session:
        limits += [session.scalar(text(f"SHOW {name}_timeout")) for name in ("statement", "transaction")]

    assert limits == ["5min", "302s", "8s", "10s"]


def test_reading_is_not_ended_after_the_time_of_a_writing_transaction(database_url: str) -> None:
    with transaction(database_url) as session:
        session.execute(text("SET transaction_timeout = '500ms'"))

    with reading(database_url) as session:
        session.execute(text("SELECT pg_sleep(0.8)"))
