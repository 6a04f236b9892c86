"""Run a listener, an indexer or a mover that kills itself with SIGKILL at a given step, for test_killed.py.

    python -m tests.integration.dicom_listener.killed listen FOLDER PORT STEP CALL
    python -m tests.integration.dicom_listener.killed index FOLDER DATABASE_URL STEP CALL
    python -m tests.integration.dicom_listener.killed move FOLDER "DATABASE_URL STORAGE_URL PART_BYTES" STEP CALL

STEP is `before` or `after` a function with its module; CALL is the number of the call.
"""

from __future__ import annotations

import os
import pkgutil
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from db.settings import Settings
from db.storage import bucket
from dicom_listener.indexing import indexer
from dicom_listener.moving import mover
from dicom_listener.receive import listener
from tests.object_storage import settings_of


def kill_at(when: str, name: str, number: int) -> None:
    """Replace the function *name* by one that ends this process in its *number*-th call."""
    module_name, _, attribute = name.rpartition(".")
    owner = pkgutil.resolve_name(module_name)
    original = getattr(owner, attribute)
    calls = 0

    def killing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        call = calls
        if call == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if call == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, attribute, killing)


def main() -> None:
    what, folder, where, step, number = sys.argv[1:]
    when, name = step.split(" ")
    kill_at(when, name, int(number))
    if what == "listen":
        listener.run(Settings(data_dir=Path(folder), dicom_port=int(where)))
    elif what == "move":
        url, endpoint, part = where.split(" ")
        bucket.MULTIPART = bucket.PART = int(part)
        values = settings_of(endpoint) | {"data_dir": Path(folder), "database_url": SecretStr(url)}
        mover.Mover(Settings(**values)).run_once()
    else:
        indexer.run_once(Settings(data_dir=Path(folder), database_url=SecretStr(where)))


if __name__ == "__main__":
    main()
