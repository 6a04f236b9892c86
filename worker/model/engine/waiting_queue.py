"""Queue of the sequences that wait for a row; the only state shared between threads."""

from __future__ import annotations

import threading
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.model.engine.sequence import Sequence


class WaitingQueue:
    """First in, first out. Any thread may add and close; only the engine's thread takes sequences out."""

    def __init__(self) -> None:
        self._sequences: deque[Sequence] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def closed(self) -> bool:
        """True once no request is accepted any more."""
        return self._closed

    def put(self, sequence: Sequence) -> bool:
        """Append *sequence*; return False, without appending it, if the queue is closed."""
        with self._changed:
            if not self._closed:
                self._sequences.append(sequence)
                self._changed.notify()
            return not self._closed

    def put_first(self, sequence: Sequence) -> None:
        """Prepend a preempted sequence."""
        with self._changed:
            self._sequences.appendleft(sequence)

    def first(self, count: int) -> list[Sequence]:
        """Return the next *count* sequences at most; they stay in the queue."""
        with self._changed:
            return list(islice(self._sequences, count))

    def remove(self, sequence: Sequence) -> None:
        """Remove *sequence*."""
        with self._changed:
            self._sequences.remove(sequence)

    def remove_expired(self, now: float) -> list[Sequence]:
        """Remove and return the sequences that were cancelled or are past their deadline."""
        expired: list[Sequence] = []
        waiting: deque[Sequence] = deque()
        with self._changed:
            # Each is tested once: it may be cancelled between two tests, and must end up in exactly one list.
            for sequence in self._sequences:
                (expired if sequence.expired(now) else waiting).append(sequence)
            self._sequences = waiting
        return expired

    def wait(self) -> None:
        """Block until a sequence waits or the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._sequences)

    def close(self) -> None:
        """Accept no more requests and wake the waiting thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def drain(self) -> list[Sequence]:
        """Remove and return all sequences."""
        with self._changed:
            left = list(self._sequences)
            self._sequences.clear()
        return left
