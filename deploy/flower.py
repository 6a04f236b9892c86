"""Flower, for operations: what Celery's queue does. The record of what became of a study is the database."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from db.jobs.celery_app import make_app
from deploy.embedded.credentials import flower_password

if TYPE_CHECKING:
    from db.settings import Settings

USER = "prelim"


def run(settings: Settings) -> None:
    """Serve Flower until SIGTERM; always behind a password, which is handed over outside the command line."""
    os.environ["FLOWER_BASIC_AUTH"] = f"{USER}:{flower_password(settings)}"
    arguments = [
        f"--address={settings.flower_host}",
        f"--port={settings.flower_port}",
        f"--logging={settings.log_level}",
    ]
    # It asks the workers while they are still starting, and asks again when somebody looks.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    make_app(settings.broker()).start(["flower", *arguments])
