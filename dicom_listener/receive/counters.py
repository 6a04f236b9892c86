"""Count refusals by calling AE title and cause, for operators."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Pairs of calling AE title and cause; a peer can make up any number of AE titles.
MAX_KEYS = 1000
OTHERS = "(others)"


class RefusalCounter:
    """Refusals of one listener since its start; handed over to the dispatcher as the file `spool/refusals.json`.

    It is a file, because the listener runs without PostgreSQL. Only the listener writes it, atomically, between two
    connections. The dispatcher reads it with `read` for its heartbeat, where `prelim status` finds it.
    The content is a list of [calling AE title, cause, count], the most frequent first.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._written = 0

    def add(self, calling_ae_title: str, cause: str) -> None:
        """Count one refusal."""
        with self._lock:
            key = calling_ae_title, cause
            if key not in self._counts and len(self._counts) >= MAX_KEYS:
                key = OTHERS, ""
            self._counts[key] += 1

    def write(self) -> None:
        """Write the file if the counts have changed; raises OSError."""
        with self._lock:
            total = self._counts.total()
            rows = [[calling, cause, count] for (calling, cause), count in self._counts.most_common()]
        if total != self._written:
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps(rows))
            fresh.replace(self._path)
            self._written = total


def read(path: Path) -> list[tuple[str, str, int]]:
    """Return calling AE title, cause and count, the most frequent first; empty if there is no file."""
    try:
        return [(calling, cause, count) for calling, cause, count in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
