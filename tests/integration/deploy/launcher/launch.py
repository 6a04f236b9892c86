"""Launch fake processes, described in JSON, as `prelim up` launches the real ones; run by the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from db.environment import load_settings
from db.errors import PrelimError
from deploy.launcher.launcher import running
from deploy.launcher.processes import Process


def fake(name: str, *, code: str, ready_seconds: float = 20, grace_seconds: float = 20) -> Process:
    """A process that runs the Python *code* and is ready once the file NAME.ready exists."""
    folder = Path.cwd()
    return Process(
        name,
        (sys.executable, "-I", "-S", "-u", "-c", code, name),
        lambda _settings, _pid: (folder / f"{name}.ready").exists(),
        ready_seconds,
        grace_seconds,
    )


def main(migration: str, table: str) -> int:
    processes = [fake(name, **rest) for name, rest in json.loads(table).items()]
    try:
        with running(load_settings(), processes=processes, migration=(sys.executable, "-c", migration)) as launcher:
            launcher.run()
    except PrelimError as error:
        print(error, flush=True)  # noqa: T201 - as the command line does
        return 1
    return launcher.exit_status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
