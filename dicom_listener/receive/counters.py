"""Refusals counted by sender and reason, for operators: kept in memory, left in one small file now and then."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Senders and reasons told apart; AE titles are free for anybody to make up.
MOST_KINDS = 1000
OTHERS = "(others)"


class Tally:
    """Counts since the listener started."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()
        self._written = 0

    def add(self, calling_ae_title: str, why: str) -> None:
        """Count one refusal."""
        with self._lock:
            kind = calling_ae_title, why
            if kind not in self._counts and len(self._counts) >= MOST_KINDS:
                kind = OTHERS, why[:0]
            self._counts[kind] += 1

    def write(self) -> None:
        """Leave the counts for the dispatcher, where they have changed; raises OSError."""
        with self._lock:
            total = self._counts.total()
            rows = [[calling, why, count] for (calling, why), count in self._counts.most_common()]
        if total != self._written:
            fresh = self._path.with_suffix(".new")
            fresh.write_text(json.dumps(rows))
            fresh.replace(self._path)
            self._written = total


def read(path: Path) -> list[tuple[str, str, int]]:
    """Calling AE title, reason and count, the most frequent first; nothing where nothing was refused."""
    try:
        return [(calling, why, count) for calling, why, count in json.loads(path.read_text())]
    except FileNotFoundError:
        return []
