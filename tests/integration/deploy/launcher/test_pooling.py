"""A connection pooler before PostgreSQL: one that keeps sessions is used, one that shares them is refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from db.errors import ConfigurationError
from db.session import connect, engine
from db.settings import Settings
from deploy.embedded.server_process import free_port
from deploy.launcher.pooling import refuse_shared_sessions
from tests.conftest import missing
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    there, port = make_url(url), free_port()
    (folder / "users").write_text(f'"{there.username}" "{there.password}"\n')
    (folder / "users").chmod(0o644)
    configuration = folder / "pgbouncer.ini"
    values = {"server": there.port, "port": port, "folder": folder, "mode": mode, "idle": idle}
    configuration.write_text(CONFIGURATION.format(**values, round_robin=int(idle > 0)))
    # It refuses to run as root; below pytest's private folder another user reads what it has open.
    opened = [os.open(path, os.O_RDONLY) for path in (configuration, folder / "users")]
    configuration.write_text(configuration.read_text().replace(f"{folder}/users", f"/proc/self/fd/{opened[1]}"))
    process = subprocess.Popen(
        [str(program), f"/proc/self/fd/{opened[0]}"],
        pass_fds=opened,
        user="nobody" if os.geteuid() == 0 else None,
        stderr=subprocess.DEVNULL,
    )
    made = there.set(port=port).render_as_string(hide_password=False)
    try:
        wait_until(lambda: answers(made), 10)
        yield made
    finally:
        engine(made).dispose()
        process.terminate()
        process.wait(10)
        for each in opened:
            os.close(each)


def answers(url: str) -> bool:
    try:
        connect(url).close()
    except OSError:
        return False
    except Exception as error:  # noqa: BLE001 - psycopg's, of a pooler that starts
        assert "refused" in str(error), error  # noqa: PT017
        return False
    return True


@pytest.mark.parametrize("idle", [0, 3])
def test_pooler_of_transactions_is_refused(database_url: str, tmp_path: Path, idle: int) -> None:
    with pooled(database_url, tmp_path, "transaction", idle=idle) as url:
        with pytest.raises(ConfigurationError, match="pool_mode = session") as refused:
            refuse_shared_sessions(Settings(database_url=url))
        assert str(make_url(url).password) not in str(refused.value)


def test_pooler_of_sessions_is_used(database_url: str, tmp_path: Path) -> None:
    with pooled(database_url, tmp_path, "session") as url:
        refuse_shared_sessions(Settings(database_url=url))


def test_server_without_a_pooler_is_used(database_url: str) -> None:
    refuse_shared_sessions(Settings(database_url=database_url))


def test_database_that_is_down_is_not_checked() -> None:
    refuse_shared_sessions(Settings(database_url=f"postgresql+psycopg://user@127.0.0.1:{free_port()}/none"))
