"""Limit the rows that requests without a caller add to the audit log: none of them gets data of a patient.

Of each address, the first ROWS of a minute have a row each; the others are counted, and have one row together when the
minute has ended. A process that is killed loses the counts of its last minute.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from db.access.audit_log import Entry

#: Rows of an address in a minute: a person who has forgotten the key makes fewer attempts.
ROWS = 10
WINDOW_SECONDS = 60.0
#: Addresses of a minute with rows of their own; a network has as many addresses as an attacker wants.
MAX_ADDRESSES = 100
#: Addresses beyond these, together.
OTHERS = ""


@dataclass(slots=True)
class _Minute:
    """Requests of an address within WINDOW_SECONDS."""

    ends: float
    rows: int = 0
    counted: int = 0
    #: The first and the last one that were counted.
    first: Entry | None = None
    last: Entry | None = None


class AnonymousRows:
    """Minutes of the addresses, of one process."""

    def __init__(self) -> None:
        self._minutes: dict[str, _Minute] = {}

    def counts(self, entry: Entry) -> bool:
        """Return whether *entry* is counted, instead of having a row of its own."""
        if entry.principal or entry.studies:
            return False
        minute = self._minute(entry.address)
        if minute.rows < ROWS:
            minute.rows += 1
            return False
        minute.counted += 1
        minute.first, minute.last = minute.first or entry, entry
        return True

    def ended(self, *, all_of_them: bool = False) -> list[Entry]:
        """Remove the minutes that have ended; return a row for each in which requests were counted.

        It is that of the last of them, with their number and the time of the first one.
        """
        now = time.monotonic()
        ended = {name: each for name, each in self._minutes.items() if all_of_them or each.ends <= now}
        for name in ended:
            del self._minutes[name]
        return [_row(name, minute) for name, minute in ended.items() if minute.counted]

    @property
    def is_counting(self) -> bool:
        """True while requests are counted that have no row yet."""
        return any(minute.counted for minute in self._minutes.values())

    def _minute(self, address: str) -> _Minute:
        found = self._minutes.get(address)
        if found is None and len(self._minutes) >= MAX_ADDRESSES:
            address = OTHERS
            found = self._minutes.get(address)
        if found is None:
            found = self._minutes[address] = _Minute(time.monotonic() + WINDOW_SECONDS)
        return found


def _row(address: str, minute: _Minute) -> Entry:
    first, last = minute.first, minute.last
    if first is None or last is None:
        raise ValueError("no request was counted")
    return replace(last, address=address, detail={"requests": minute.counted, "since": first.at.isoformat()})
