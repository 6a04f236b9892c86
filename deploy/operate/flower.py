"""Serve Flower, which shows Celery's queue; the record of a study is the database."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from db.jobs.celery_app import make_app
from deploy.embedded.credentials import FLOWER_USER, flower_password

if TYPE_CHECKING:
    from db.settings import Settings


#: Seconds for which Flower shows a worker that has ended.
OFFLINE_SECONDS = 300


def run(settings: Settings) -> None:
    """Serve Flower until SIGTERM, always with a password, which is kept off the command line."""
    os.environ["FLOWER_BASIC_AUTH"] = f"{FLOWER_USER}:{flower_password(settings)}"
    arguments = [
        f"--address={settings.operations.flower_host}",
        f"--port={settings.operations.flower_port}",
        f"--logging={settings.operations.log_level}",
        # Each start of a worker has a name of its own.
        f"--purge_offline_workers={OFFLINE_SECONDS}",
    ]
    # It queries the workers while they are still starting, and again on every page.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    make_app(settings.broker()).start(["flower", *arguments])
