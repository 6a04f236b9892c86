"""An upgrade over many releases whose machine loses its power again and again ends as an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.migration import MigrationContext
from sqlalchemy import text

from db.jobs import claims
from db.migrations.upgrade import alembic_config, migrate
from db.session import engine, transaction
from deploy.embedded.postgres import Postgres
from tests.conftest import REPOSITORY
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT
from tests.polling import wait_until

#: An upgrade that is suspended within the migration after a revision, when its first statement has been executed.
SUSPENDED = """
import os, signal, sys
from sqlalchemy import Engine, event
from db.migrations.upgrade import migrate

url, revision = sys.argv[1:]
reached = []

def suspend(connection, cursor, statement, *_):
    if reached and not statement.lstrip().startswith("SELECT"):
        os.kill(os.getpid(), signal.SIGSTOP)
    if f"SET version_num='{revision}'" in statement:
        reached.append(revision)

event.listen(Engine, "after_cursor_execute", suspend)
migrate(url)
"""
EARLIEST = "0002"
STUDIES = 12
#: Revisions after which the power is cut.
CUTS = ("0006", "0019", "0036")


def contents(url: str) -> list[tuple[object, ...]]:
    with transaction(url) as session:
        rows = session.execute(
            text(
                "SELECT study_instance_uid, studies.state, reports.version, findings, impression, count(instances.id)"
                " FROM studies JOIN instances ON instances.study_id = studies.id"
                " LEFT JOIN reports ON reports.study_id = studies.id GROUP BY 1, 2, 3, 4, 5 ORDER BY 1"
            )
        )
        return [tuple(row) for row in rows]


def revision(url: str) -> str:
    with engine(url).connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() or ""


def is_suspended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process is stopped; fails if it has ended."""
    assert process.poll() is None
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def cut_power(server: Postgres, upgrade: subprocess.Popen[bytes]) -> None:
    """Kill the server and the command at once; start the server, which recovers."""
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    upgrade.kill()
    upgrade.wait()
    engine(server.url).dispose()
    wait_until(lambda: not server.alive)
    server.start()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_power_cuts_in_the_middle_of_an_upgrade_lose_nothing(tmp_path: Path) -> None:
    with Postgres(tmp_path / "postgres") as server:
        migrate(server.url)
        for number in range(STUDIES):
            arrivals = Arrivals(server.url)
            arrivals.image()
            arrivals.settle()
            if number % 3:
                with transaction(server.url) as session:
                    claim = claims.claim_next(session, owner="test", lease_seconds=30)
                    assert claim is not None
                    claims.finish(session, claim, DRAFT)
        before = contents(server.url)
        command.downgrade(alembic_config(server.url), EARLIEST)
        reached = []
        for cut in CUTS:
            upgrade = subprocess.Popen([sys.executable, "-c", SUSPENDED, server.url, cut], cwd=REPOSITORY)
            wait_until(lambda upgrade=upgrade: is_suspended(upgrade), 60)  # type: ignore[misc]
            cut_power(server, upgrade)
            reached.append(revision(server.url))
        migrate(server.url)

        assert contents(server.url) == before
        assert len(before) == STUDIES
        assert reached == list(CUTS)
        engine(server.url).dispose()
