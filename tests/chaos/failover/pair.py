"""A PostgreSQL primary with a standby, and the part of a cluster manager: promote one, replace the other."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any, Self

import psycopg

from db.migrations.upgrade import migrate
from db.session import engine
from deploy.embedded.postgres import Postgres
from deploy.embedded.server_process import free_port
from tests.polling import wait_until
from tests.proxy import Proxy
from tests.standby import Standby, promote

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

STREAMING = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
#: A commit waits for the disk of any standby, as with `synchronous_commit = on`; empty for none.
SYNCHRONOUS = "ALTER SYSTEM SET synchronous_standby_names = '{}'"


class Pair:
    """Two servers on two ports that stay the same; of each failover, the lost server is made anew as the standby.

    With *synchronous*, a commit waits for the standby while there is one, except one that need not be durable.
    """

    def __init__(self, folder: Path, *, synchronous: bool) -> None:
        self.synchronous = synchronous
        self._folder = folder
        self._ports = [free_port(), free_port()]
        self._made = 0
        self.primary = Postgres(self._next_folder(), self._ports[0])
        self.standby: Standby
        #: Between the two servers.
        self.link: Proxy

    def __enter__(self) -> Self:
        self.primary.start()
        migrate(self.primary.url)
        self.add_standby()
        return self

    def __exit__(self, *_: object) -> None:
        self.link.close()
        for server in (self.standby, self.primary):
            engine(server.url).dispose()
            server.stop()

    @property
    def ports(self) -> list[int]:
        return self._ports

    @property
    def url(self) -> str:
        """URL of the current primary alone."""
        return self.primary.url

    @property
    def process(self) -> subprocess.Popen[bytes] | None:
        return self.primary.process

    @property
    def alive(self) -> bool:
        return self.primary.alive and self.standby.alive

    def start(self) -> None:
        """Start the servers that have ended, in the roles that they had."""
        for server in (self.primary, self.standby):
            if not server.alive:
                server.start()

    def stop(self) -> None:
        self.primary.stop()

    def add_standby(self) -> None:
        """Make a standby by a base backup, and wait until it receives."""
        self.link = Proxy(self.primary.port)
        port = next(port for port in self._ports if port != self.primary.port)
        self.standby = Standby(self._next_folder(), self.primary, self.link, port)
        self.standby.start()
        wait_until(self.is_streaming, 30)
        if self.synchronous:
            self._configure("*")

    def is_streaming(self) -> bool:
        """Return whether the standby has received all that the primary has written."""
        return bool(self._value(STREAMING))

    def fail_over(self) -> float:
        """Kill the primary and promote the standby; returns the time of the kill."""
        killed_at = time.time()
        assert self.primary.process
        os.kill(self.primary.process.pid, signal.SIGKILL)
        self.primary.process.wait()
        # What the link holds never arrives.
        self.link.close()
        promote(self.standby.url)
        lost, self.primary = self.primary, self.standby
        if self.synchronous:
            self._configure("")
        shutil.rmtree(lost.directory)
        return killed_at

    def _next_folder(self) -> Path:
        self._made += 1
        return self._folder / f"server-{self._made}"

    def _configure(self, names: str) -> None:
        self._value(SYNCHRONOUS.format(names))
        self._value("SELECT pg_reload_conf()")

    def _value(self, statement: str) -> Any:
        with psycopg.connect(self.primary.url.replace("+psycopg", ""), autocommit=True) as connection:
            result = connection.execute(statement.encode())
            return (result.fetchone() or [None])[0] if result.description else None
