"""A connection pooler before PostgreSQL: one that keeps sessions is used, one that shares them is refused."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import make_url
from structlog.testing import capture_logs

from db.errors import ConfigurationError
from db.session import connect, engine
from db.settings import Settings
from deploy.embedded.server_process import free_port
from deploy.launcher import pooling
from deploy.launcher.pooling import is_shared, refuse_shared_sessions
from tests.conftest import missing
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy import URL

#: Seconds for PgBouncer to listen, on a machine that has other work; ports that are tried.
START_SECONDS, PORTS = 60, 5
CONFIGURATION = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {folder}/users
pool_mode = {mode}
min_pool_size = {idle}
server_round_robin = {round_robin}
"""


@contextmanager
def pooled(url: str, folder: Path, mode: str, *, idle: int = 0) -> Iterator[str]:
    """Run PgBouncer in *mode* before a database; yield its URL. With *idle* sessions it uses them in turn."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        missing("pgbouncer (Debian package)")
    there = make_url(url)
    (folder / "users").write_text(f'"{there.username}" "{there.password}"\n')
    (folder / "users").chmod(0o644)
    values = {"server": there.port, "folder": folder, "mode": mode, "idle": idle, "round_robin": int(idle > 0)}
    with ExitStack() as stack:
        made = stack.enter_context(_listening(str(program), there, folder, values))
        stack.callback(engine(made).dispose)
        yield made


@contextmanager
def _listening(program: str, there: URL, folder: Path, values: dict[str, object]) -> Iterator[str]:
    """Run it on a port that is free, and still is when it binds it: a connection may have taken it meanwhile."""
    configuration, log = folder / "pgbouncer.ini", folder / "pgbouncer.log"
    for _ in range(PORTS):
        port = free_port()
        configuration.write_text(CONFIGURATION.format(**values, port=port))
        made = there.set(port=port).render_as_string(hide_password=False)
        with _process(program, configuration, folder / "users", log) as process:
            wait_until(lambda made=made, process=process: answers(made) or process.poll() is not None, START_SECONDS)  # type: ignore[misc]
            if process.poll() is None:
                yield made
                return
    pytest.fail(f"PgBouncer has not started on {PORTS} ports: {log.read_text()}")


@contextmanager
def _process(program: str, configuration: Path, users: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    # It refuses to run as root; below pytest's private folder another user reads what it has open.
    with users.open() as open_users, configuration.open() as opened, log.open("wb") as errors:
        text = configuration.read_text().replace(str(users), f"/proc/self/fd/{open_users.fileno()}")
        configuration.write_text(text)
        process = subprocess.Popen(
            [program, f"/proc/self/fd/{opened.fileno()}"],
            pass_fds=[opened.fileno(), open_users.fileno()],
            user="nobody" if os.geteuid() == 0 else None,
            stderr=errors,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(START_SECONDS)


def answers(url: str) -> bool:
    try:
        connect(url).close()
    except OSError:
        return False
    except Exception as error:  # noqa: BLE001 - psycopg's, of a pooler that starts
        assert "refused" in str(error), error  # noqa: PT017
        return False
    return True


@pytest.mark.parametrize("idle", [0, 2, 3])
def test_pooler_of_transactions_is_refused(database_url: str, tmp_path: Path, idle: int) -> None:
    with pooled(database_url, tmp_path, "transaction", idle=idle) as url:
        with pytest.raises(ConfigurationError, match="pool_mode = session") as refused:
            refuse_shared_sessions(Settings(database_url=url))
        assert str(make_url(url).password) not in str(refused.value)


def test_pooler_is_found_after_an_attempt_without_an_answer(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [psycopg.errors.ConnectionTimeout("no answer in time")] * 2

    def sometimes(url: str) -> bool:
        if failures:
            raise failures.pop()
        return is_shared(url)

    monkeypatch.setattr(pooling, "is_shared", sometimes)
    with (
        pooled(database_url, tmp_path, "transaction") as url,
        pytest.raises(ConfigurationError, match="pool_mode = session"),
    ):
        refuse_shared_sessions(Settings(database_url=url))


def test_database_that_cannot_be_reached_is_not_checked_and_the_log_says_so() -> None:
    with capture_logs() as lines:
        refuse_shared_sessions(Settings(database_url=f"postgresql+psycopg://prelim@127.0.0.1:{free_port()}/prelim"))

    assert [line["event"] for line in lines] == ["database.pooler_not_checked"]


def test_pooler_is_started_on_another_port_if_a_connection_has_taken_the_first(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_url(database_url).port
    with socket.create_connection(("127.0.0.1", server)) as other:
        taken, free = other.getsockname()[1], free_port()
        ports = iter((taken, free))
        monkeypatch.setattr(sys.modules[__name__], "free_port", lambda: next(ports))
        with pooled(database_url, tmp_path, "session") as url:
            assert make_url(url).port == free


def test_pooler_of_sessions_is_used(database_url: str, tmp_path: Path) -> None:
    with pooled(database_url, tmp_path, "session") as url:
        refuse_shared_sessions(Settings(database_url=url))


def test_server_without_a_pooler_is_used(database_url: str) -> None:
    refuse_shared_sessions(Settings(database_url=database_url))


def test_database_that_is_down_is_not_checked() -> None:
    refuse_shared_sessions(Settings(database_url=f"postgresql+psycopg://user@127.0.0.1:{free_port()}/none"))
