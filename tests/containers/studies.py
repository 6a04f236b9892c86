"""Send studies to an installation in containers, and read their states from its database."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, LiteralString

import psycopg

from tests.conftest import REPOSITORY
from worker.phantoms.datasets import write_demo_studies

if TYPE_CHECKING:
    from pathlib import Path

    from tests.containers.engine import Containers


def send(containers: Containers, folder: Path, *, count: int) -> None:
    write_demo_studies(folder, count=count, seed=count)
    environment = os.environ | {"PRELIM_DICOM_PORT": str(containers.dicom_port)}
    command = [sys.executable, "-m", "deploy.cli.entry", "send", "--called", "PRELIM_DEMO", str(folder)]
    subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, capture_output=True)


def states(url: str) -> dict[str, int]:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return dict(connection.execute("SELECT state, count(*) FROM studies GROUP BY state").fetchall())


def jobs(url: str, condition: LiteralString) -> int:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        (found,) = connection.execute("SELECT count(*) FROM jobs WHERE " + condition).fetchone() or (0,)
    return int(found)
