"""Tell from the status files in the spool whether the listener of this machine is ready.

Without a connection, and with the standard library only: containers run the check every few seconds, and a C-ECHO by
pynetdicom costs half a second of CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

from dicom_listener.receive import status_file
from dicom_listener.spool.durable import Spool

#: As in db.settings and db.environment, which take longer to import.
DEFAULT_DATA_DIR = "prelim-data"
SECRET = Path("/run/secrets/prelim_data_dir")


def data_dir() -> Path:
    """Return the data directory that the settings name."""
    given = {name.upper(): value for name, value in os.environ.items()}.get("PRELIM_DATA_DIR")
    if given is None and SECRET.exists():
        given = SECRET.read_text().strip()
    return Path(given or DEFAULT_DATA_DIR)


def is_ready(folder: Path) -> bool:
    """Return whether a process of this machine receives."""
    try:
        found = [status_file.read(slot.status) for slot in Spool(folder / "spool").slots()]
    except OSError:
        return False
    here = f"{os.uname().nodename}:"  # `socket` takes longer to import
    return any(status["process"].startswith(here) and not status.get("draining") for status in found if status)
