"""Tell from the status files in the spool whether the listener of this machine is ready.

Without a connection, and with the standard library only: containers run the check every few seconds, and a C-ECHO by
pynetdicom costs half a second of CPU.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from dicom_listener.receive import status_file
from dicom_listener.spool.durable import Spool

#: As in db.settings and db.environment, which take longer to import.
DEFAULT_DATA_DIR = "prelim-data"
SECRET = Path("/run/secrets/prelim_data_dir")
#: Age of the parent's last beat, of one a second, from which it accepts no connections.
SILENT_SECONDS = 10.0


def data_dir() -> Path:
    """Return the data directory that the settings name."""
    given = {name.upper(): value for name, value in os.environ.items()}.get("PRELIM_DATA_DIR")
    if given is None and SECRET.exists():
        given = SECRET.read_text().strip()
    return Path(given or DEFAULT_DATA_DIR)


def is_ready(folder: Path) -> bool:
    """Return whether a process of this machine receives, and its parent, if it has one, accepts connections."""
    try:
        found = [status_file.read(slot.status) for slot in Spool(folder / "spool").slots()]
    except OSError:
        return False
    here = f"{os.uname().nodename}:"  # `socket` takes longer to import
    return any(status["process"].startswith(here) and _receives(status) for status in found if status)


def _receives(status: dict[str, Any]) -> bool:
    parent = status.get("parent")
    return not status.get("draining") and (parent is None or time.time() - parent["beat_at"] < SILENT_SECONDS)
