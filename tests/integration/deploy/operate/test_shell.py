from __future__ import annotations

import os
import subprocess
import sys

import pytest

from db.models import Study
from db.session import transaction
from tests.conftest import REPOSITORY
from tests.integration.db.conftest import Arrivals


@pytest.fixture
def arrivals(database_url: str) -> Arrivals:
    arrivals = Arrivals(database_url)
    arrivals.image()
    return arrivals


def shell(url: str, lines: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploy.operate.shell", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PRELIM_DATABASE_URL": url},
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def description(arrivals: Arrivals) -> str:
    with transaction(arrivals.url) as session:
        return session.query(Study).one().study_description


def test_shell_prints_its_names_and_has_the_study(arrivals: Arrivals) -> None:
    finished = shell(arrivals.url, "print('state', study.state)\n", arrivals.uid)

    assert "settings, session, models, select, study, jobs, report" in finished.stderr
    assert "state receiving" in finished.stdout
    assert finished.returncode == 0


@pytest.mark.parametrize(("commit", "stored"), [("", ""), ("session.commit()\n", "changed")])
def test_only_committed_changes_are_stored(arrivals: Arrivals, commit: str, stored: str) -> None:
    shell(arrivals.url, "study.study_description = 'changed'\nsession.flush()\n" + commit, arrivals.uid)

    assert description(arrivals) == stored


def test_unknown_study_is_one_line(database_url: str) -> None:
    finished = shell(database_url, "", "unknown")

    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert "Traceback" not in finished.stderr
