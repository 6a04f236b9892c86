"""Append the figures of a bench, read from standard input, to the record; `make record-NAME` calls it."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import subprocess
import sys

from tests.benchmarks.figures import FIGURES, RECORDS


def main() -> None:
    """Pass standard input on and append its last line, one JSON object, to the record."""
    (bench,) = sys.argv[1:]
    line = ""
    for line in sys.stdin:
        sys.stdout.write(line)
    figures = json.loads(line)
    if unknown := figures.keys() - FIGURES[bench].keys():
        sys.exit(f"unknown figures {sorted(unknown)}: describe them in tests/benchmarks/figures.py")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True).stdout
    record = {
        "bench": bench,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": commit.strip(),
        "machine": f"{os.cpu_count()} cores {platform.machine()}, load {os.getloadavg()[0]:.1f} at the end",
        "figures": figures,
    }
    with RECORDS.open("a") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
