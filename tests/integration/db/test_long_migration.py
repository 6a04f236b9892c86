"""A migration that waits for long for its locks, and the processes that run meanwhile."""

from __future__ import annotations

import itertools
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from db.migrations import upgrade
from db.operations import overview
from db.session import reading, transaction
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import claim_as, finish

if TYPE_CHECKING:
    from pathlib import Path

MIGRATION = '''
"""Add a column, which needs the table for itself."""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "9999", "{head}"
def upgrade():
    op.add_column("jobs", sa.Column("added", sa.Integer))
'''
#: Seconds for which another program reads the table: the migration must try several times.
READ_SECONDS = 12.0
#: Seconds that one step of a process may take: the longest wait for the migration's attempt, and a margin.
STEP_SECONDS = 4.5


@pytest.mark.slow
def test_processes_serve_to_the_end_of_a_migration_that_waits_for_long(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = upgrade.alembic_config(database_url)
    scripts = f"{usual.get_main_option('script_location')}/versions"
    (tmp_path / "9999_added.py").write_text(MIGRATION.format(head=head(database_url)))
    usual.set_main_option("path_separator", "os")
    usual.set_main_option("version_locations", os.pathsep.join([scripts, str(tmp_path)]))
    monkeypatch.setattr(upgrade, "alembic_config", lambda _url: usual)
    migrating = threading.Thread(target=upgrade.migrate, args=(database_url,))

    with reading(database_url) as reader:
        reader.execute(text("SELECT count(*) FROM jobs"))
        migrating.start()
        ends, steps = time.monotonic() + READ_SECONDS, [write_a_report(database_url)]
        while time.monotonic() < ends:
            steps.append(write_a_report(database_url))
            reader.execute(text("SELECT 1"))  # or the server ends its transaction
        assert migrating.is_alive()
        assert head(database_url) != "9999"
    migrating.join(30)

    assert head(database_url) == "9999"
    write_a_report(database_url)
    assert max(steps) < STEP_SECONDS, steps
    assert len(steps) > READ_SECONDS / STEP_SECONDS


def head(url: str) -> str:
    with transaction(url) as session:
        return str(session.scalar(text("SELECT version_num FROM alembic_version")))


def write_a_report(url: str) -> float:
    """Let a study arrive, claim its job, store the report and list it; returns the seconds of the longest step."""
    study = Arrivals(url)
    times = [time.monotonic()]
    study.image()
    times.append(time.monotonic())
    study.settle()
    times.append(time.monotonic())
    claim = claim_as(url, "worker-1")
    assert claim is not None
    times.append(time.monotonic())
    finish(url, claim)
    times.append(time.monotonic())
    with transaction(url) as session:
        overview.overview(session)
    times.append(time.monotonic())
    return max(after - before for before, after in itertools.pairwise(times))
