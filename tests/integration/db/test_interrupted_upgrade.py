"""An upgrade over many releases whose machine loses its power again and again ends as an undisturbed one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from pathlib import Path

MIGRATE = [sys.executable, "-c", "import sys; from db.migrations.upgrade import migrate; migrate(sys.argv[1])"]
EARLIEST = "0002"
STUDIES = 12
#: Revisions at which the power is cut, as soon as one of them is reached.
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
            upgrade = subprocess.Popen([*MIGRATE, server.url], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
            while revision(server.url) < cut and upgrade.poll() is None:
                time.sleep(0.01)
            cut_power(server, upgrade)
            reached.append(revision(server.url))
        migrate(server.url)

        assert contents(server.url) == before
        assert len(before) == STUDIES
        assert len(set(reached)) == len(CUTS), f"cut at {reached}"
        engine(server.url).dispose()
