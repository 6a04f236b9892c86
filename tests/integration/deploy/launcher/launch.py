"""Launch fake processes, described in JSON, as `prelim up` launches the real ones; run by the tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from db.environment import load_settings
from db.errors import PrelimError
from deploy.launcher import probe
from deploy.launcher.launcher import running
from deploy.launcher.processes import Process

probe.INTERVAL_SECONDS, probe.HANG_SECONDS, probe.MIN_FAILURES = 0.1, 0.5, 3


def fake(
    name: str, *, code: str, ready_seconds: float = 20, grace_seconds: float = 20, probed: bool = False
) -> Process:
    """A process that runs the Python *code*, is ready once the file NAME.ready exists, and hangs with NAME.hung."""
    folder = Path.cwd()
    return Process(
        name,
        (sys.executable, "-I", "-S", "-u", "-c", code, name),
        lambda _settings, _pid: (folder / f"{name}.ready").exists(),
        ready_seconds,
        grace_seconds,
        (lambda _settings: not (folder / f"{name}.hung").exists()) if probed else None,
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
