"""Hand over storage commitment results from the dispatcher to the open association of their request."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from enum import StrEnum
from typing import TYPE_CHECKING

from dicom_listener.dicom.commitment_result import CommitmentResult
from dicom_listener.spool.durable import read_text

if TYPE_CHECKING:
    from pathlib import Path


class State(StrEnum):
    """State of a result in the outbox."""

    WAITING = "waiting"
    ACCEPTED = "accepted"
    REFUSED = "refused"


class CommitmentOutbox:
    """Results that wait for the association of their request, one file each, in its slot: `commitments/<key>`.

    Many requesters take a result only on the association of their request, which belongs to the listener's process;
    the dispatcher verifies the request, as that needs the database. Rejected: a row as the hand-over, because the
    listener runs without PostgreSQL; results on a new association only, because such requesters have no address.

    The dispatcher owns the files: it puts a result (state *waiting*), polls its state and removes it, also after a
    timeout or the end of the association. The listener sends a waiting result when the association is idle, and records
    the requester's response: *accepted* or *refused*. Results are lost without harm: the dispatcher repeats them.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, association_id: str, commitment_id: str, result: CommitmentResult) -> str:
        """Put a result for an association; returns its key. Raises OSError."""
        key = f"{association_id}.{commitment_id}"
        self._write(key, {"state": State.WAITING, "result": dataclasses.asdict(result)})
        return key

    def state(self, key: str) -> State | None:
        """Return the state of a result; None if it was removed, or cannot be read."""
        try:
            return State(json.loads(read_text(self._directory / key))["state"])
        except (OSError, ValueError, LookupError):
            return None

    def remove(self, key: str) -> None:
        """Remove a result in any state; raises OSError."""
        (self._directory / key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all results: their associations have ended with an earlier owner of the slot."""
        for path in self._directory.glob("*"):
            with contextlib.suppress(OSError):  # no result, or the disk fails: no association will ask for it
                path.unlink(missing_ok=True)

    def find(self, association_id: str) -> tuple[str, CommitmentResult] | None:
        """Return key and content of a waiting result for this association; raises OSError."""
        for path in self._directory.glob(f"{association_id}.*"):
            with contextlib.suppress(FileNotFoundError):  # removed by the dispatcher since
                content = json.loads(read_text(path))
                if content["state"] == State.WAITING:
                    return path.name, CommitmentResult(**content["result"])
        return None

    def record(self, key: str, *, accepted: bool) -> None:
        """Record the response to a result; no effect if the dispatcher has removed it. Raises OSError."""
        if (self._directory / key).exists():
            self._write(key, {"state": State.ACCEPTED if accepted else State.REFUSED})

    def _write(self, key: str, content: dict[str, object]) -> None:
        # Atomically: the other process must not read half of it.
        fresh = self._directory / f".{key}"
        fresh.write_text(json.dumps(content))
        fresh.replace(self._directory / key)
