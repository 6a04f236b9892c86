"""A PostgreSQL that replicates another one through a proxy, which can stop forwarding."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from sqlalchemy import text

from db.session import engine, transaction
from deploy.embedded.postgres import ENVIRONMENT, USER, Postgres
from deploy.spawn import spawn
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.proxy import Proxy

BACKUP = "--pgdata=/proc/self/cwd", "--write-recovery-conf", "--checkpoint=fast"
READ_ONLY = "?target_session_attrs=any"


class Standby(Postgres):
    """Replica of *primary*, from which it receives as long as *proxy* forwards; made by a base backup."""

    def __init__(self, directory: Path, primary: Postgres, proxy: Proxy, port: int | None = None) -> None:
        super().__init__(directory, port)
        (self.directory / "password").write_text(primary.password)
        self._proxy = proxy

    def prepare(self) -> None:
        if (self.directory / "cluster").exists():
            return
        source = ["--host=127.0.0.1", f"--port={self._proxy.port}", f"--username={USER}"]
        backup = spawn(
            [self._program("pg_basebackup"), *source, *BACKUP],
            death_signal=signal.SIGKILL,
            account=self.account,
            cwd=self._account_directory("cluster"),
            env=ENVIRONMENT | {"PGPASSWORD": self.password},
        )
        output, _ = backup.communicate()
        assert backup.returncode == 0, output.decode()


def promote(url: str) -> None:
    """Let the standby with *url* accept writes, and wait until it does."""
    with transaction(url + READ_ONLY) as session:
        # Waiting in this statement would be limited as any other is.
        assert session.scalar(text("SELECT pg_promote(wait => false)"))
    wait_until(lambda: accepts_writes(url + READ_ONLY), seconds=60)
    engine(url + READ_ONLY).dispose()


def accepts_writes(url: str) -> bool:
    with transaction(url) as session:
        return bool(session.scalar(text("SELECT NOT pg_is_in_recovery()")))
