"""Commitment reports that go out on the association that asked: from the dispatcher to the listener, over the spool.

spool/reports/<association id>.<commitment id>   waits; gone once the requester has taken it, or ends in `.refused`
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dicom_listener.dicom.uids import STORAGE_COMMITMENT_INSTANCE, STORAGE_COMMITMENT_PUSH_MODEL
from dicom_listener.receive import dimse

if TYPE_CHECKING:
    from pathlib import Path

REFUSED = ".refused"


@dataclass(frozen=True, slots=True)
class Report:
    """An N-EVENT-REPORT: its event type and its data set, encoded for each transfer syntax we negotiate."""

    event_type: int
    encoded: dict[str, bytes]

    def command(self, message_id: int) -> bytes:
        """The command set (PS3.7 10.3.1)."""
        return dimse.encode(
            {
                dimse.AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH_MODEL,
                dimse.COMMAND_FIELD: dimse.N_EVENT_REPORT_RQ,
                dimse.MESSAGE_ID: message_id,
                dimse.COMMAND_DATA_SET_TYPE: dimse.WITH_DATA_SET,
                dimse.AFFECTED_SOP_INSTANCE_UID: STORAGE_COMMITMENT_INSTANCE,
                dimse.EVENT_TYPE_ID: self.event_type,
            }
        )


class Shelf:
    """Where the dispatcher leaves reports, and the listener's associations look for theirs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def leave(self, association_id: str, commitment_id: str, report: Report) -> Path:
        """Leave a report; it vanishes when it was taken."""
        encoded = {syntax: data_set.hex() for syntax, data_set in report.encoded.items()}
        path = self._directory / f"{association_id}.{commitment_id}"
        # Under another name first: the listener must not find half of it.
        fresh = self._directory / f".{path.name}"
        fresh.write_text(json.dumps({"event_type": report.event_type, "encoded": encoded}))
        fresh.replace(path)
        return path

    @staticmethod
    def was_taken(path: Path) -> bool | None:
        """Whether the requester took the report that was left at *path* or refused it; None while it waits."""
        if path.exists():
            return None
        refused = path.with_name(path.name + REFUSED)
        if not refused.exists():
            return True
        refused.unlink()
        return False

    @staticmethod
    def take(path: Path, *, accepted: bool) -> None:
        """Note what the requester said to the report at *path*; raises OSError."""
        if accepted:
            path.unlink(missing_ok=True)
        else:
            path.replace(path.with_name(path.name + REFUSED))

    def find(self, association_id: str) -> tuple[Path, Report] | None:
        """A report for this association."""
        for path in self._directory.glob(f"{association_id}.*"):
            if path.suffix == REFUSED:
                continue
            content = json.loads(path.read_text())
            encoded = {syntax: bytes.fromhex(data_set) for syntax, data_set in content["encoded"].items()}
            return path, Report(content["event_type"], encoded)
        return None
