"""Files that were in an inbox when a storage commitment request was first examined: its objects may be among them.

By the names of the files and not by times: a request and its objects may both be hours old after an outage, and the
clocks of the hosts differ.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from dicom_listener.indexing import unreadable
from dicom_listener.spool.waiting import received

if TYPE_CHECKING:
    import uuid

    from dicom_listener.spool.durable import Spool

#: Seconds for which a listing is used: many requests wait for one backlog, and it can have 100,000 files.
LISTING_SECONDS = 1.0


class EarlierFiles:
    """Files of all inboxes of a spool, and the requests that wait for some of them; for several threads."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._lock = threading.Lock()
        #: Number of the latest listing, and the listing that first had each file, by name.
        self._number = 0
        self._listed_in: dict[str, int] = {}
        self._oldest: int | None = None
        self._due = 0.0
        #: Listing that has all earlier files of a request, by request.
        self._complete_in: dict[uuid.UUID, int] = {}

    def wait_for(self, request: uuid.UUID) -> bool:
        """Return whether a file waits that was there when this request was first examined; raises OSError."""
        with self._lock:
            # If files wait, the next listing will have those received since this one.
            if self._oldest is None or time.monotonic() >= self._due:
                self._list()
                listing = self._number
            else:
                listing = self._number + 1
            complete_in = self._complete_in.setdefault(request, listing)
            waits = self._number < complete_in or (self._oldest is not None and self._oldest <= complete_in)
            if not waits:
                del self._complete_in[request]
            return waits

    def _list(self) -> None:
        set_aside = unreadable.of_spool(self._spool.root).set_aside()
        names = {path.name for path in received(self._spool)} - set_aside
        self._number += 1
        self._listed_in = {name: self._listed_in.get(name, self._number) for name in names}
        self._oldest = min(self._listed_in.values(), default=None)
        self._due = time.monotonic() + LISTING_SECONDS
