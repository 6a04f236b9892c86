"""Count refusals by calling AE title and cause."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from db.operations.listener_status import Refusals

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Pairs of calling AE title and cause; a peer can make up any number of AE titles.
MAX_KEYS = 1000
OTHERS = "(others)"
#: Pairs shown to operators, and those that a child passes on each second: a message of some KB.
MAX_SENDERS, MAX_TAKEN = 20, 50


class RefusalCounter:
    """Refusals of one listener since its start; of a child, those that its parent does not have yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._senders: Counter[tuple[str, str]] = Counter()
        self._causes: Counter[tuple[str, str]] = Counter()
        #: Time of the last refusal by kind and cause, on the monotonic clock.
        self._latest: dict[tuple[str, str], float] = {}

    def add(self, kind: str, calling_ae_title: str, cause: str) -> None:
        """Count one refusal; *cause* is one of the program's own texts, whose number is limited."""
        with self._lock:
            self._add_sender(calling_ae_title, cause, 1)
            self._causes[kind, cause] += 1
            self._latest[kind, cause] = time.monotonic()

    def take(self) -> dict[str, list[Any]]:
        """Return refusals for `include`, and forget them; those of more than MAX_TAKEN senders follow next time."""
        with self._lock:
            senders = self._senders.most_common(MAX_TAKEN)
            taken = {
                "senders": [[*sender, count] for sender, count in senders],
                "causes": [[*cause, count] for cause, count in self._causes.items()],
            }
            for sender, _ in senders:
                del self._senders[sender]
            self._causes.clear()
        return taken

    def include(self, taken: Mapping[str, list[Any]]) -> None:
        """Count the refusals that another counter has returned by `take`."""
        with self._lock:
            for calling_ae_title, cause, count in taken["senders"]:
                self._add_sender(calling_ae_title, cause, count)
            for kind, cause, count in taken["causes"]:
                self._causes[kind, cause] += count
                self._latest[kind, cause] = time.monotonic()

    def summary(self) -> dict[str, list[Any]]:
        """Return the refusals for the listener's status."""
        return {"refused": self.by_sender()[:MAX_SENDERS], "causes": self.by_cause()}

    def by_sender(self) -> list[tuple[str, str, int]]:
        """Return calling AE title, cause and count, the most frequent first."""
        with self._lock:
            return [(calling, cause, count) for (calling, cause), count in self._senders.most_common()]

    def by_cause(self) -> list[Refusals]:
        """Return the refusals for each cause, the most frequent first."""
        now = time.monotonic()
        with self._lock:
            return [Refusals(*key, count, now - self._latest[key]) for key, count in self._causes.most_common()]

    def _add_sender(self, calling_ae_title: str, cause: str, times: int) -> None:
        sender = calling_ae_title, cause
        if sender not in self._senders and len(self._senders) >= MAX_KEYS:
            sender = OTHERS, ""
        self._senders[sender] += times
