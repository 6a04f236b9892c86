"""Quotas: objects and bytes that one AE title at an address may send in a minute.

Several processes exchange their counts with the beats of their parent (prefork): what arrives in the two seconds until
then can exceed a quota.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from dicom_listener.dicom.statuses import OutOfResources

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from db.settings.reception import Dicom
    from dicom_listener.receive.peers import KnownPeer, Peer

#: Seconds of a quota, on the monotonic clock, which all processes of a machine share.
MINUTE = 60
#: AE titles counted one by one, of one address and in all: a peer can make up any number of them. The others of an
#: address share one count; of another address, only beyond MAX_ADDRESSES of them.
MAX_TITLES, MAX_KEYS, MAX_ADDRESSES = 100, 1000, 1000
OTHERS = "(others of the address)"  # longer than an AE title
#: Senders that a message names.
MAX_ROWS = 200
MEGABYTE = 1_000_000

#: Address and calling AE title: AE titles are not authenticated (dicom_listener.receive.seats).
Key = tuple[str, str]


class Usage:
    """Objects and bytes of the current minute, by sender."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._minute = -1
        self._objects: Counter[Key] = Counter()
        self._bytes: Counter[Key] = Counter()
        #: Number of AE titles counted one by one, by address.
        self._titles: Counter[str] = Counter()

    def add(self, key: Key, objects: int, size: int, minute: int | None = None) -> None:
        """Count objects, of another *minute* only if it is the current one."""
        with self._lock:
            if minute not in {None, self._begin()}:
                return
            key = self._counted(key)
            if key not in self._objects and key[1] != OTHERS:
                self._titles[key[0]] += 1
            self._objects[key] += objects
            self._bytes[key] += size

    def of(self, key: Key) -> tuple[int, int]:
        """Return objects and bytes of a sender in the current minute."""
        with self._lock:
            self._begin()
            key = self._counted(key)
            return self._objects[key], self._bytes[key]

    def rows(self, *, forget: bool = False) -> list[list[Any]]:
        """Return minute, address, AE title, objects and bytes of the busiest senders; *forget* those rows."""
        with self._lock:
            minute = self._begin()
            busiest = self._objects.most_common(MAX_ROWS)
            found = [[minute, *key, objects, self._bytes[key]] for key, objects in busiest]
            for key, _ in busiest if forget else ():
                del self._objects[key], self._bytes[key]
                if key[1] != OTHERS:
                    self._titles[key[0]] -= 1
            return found

    def include(self, rows: Iterable[Sequence[Any]]) -> None:
        """Count what another process has returned by `rows`."""
        for minute, address, title, objects, size in rows:
            self.add((address, title), objects, size, minute)

    def _counted(self, key: Key) -> Key:
        """Return the key under which a sender is counted."""
        address, _ = key
        others = address, OTHERS
        if key in self._objects:
            return key
        has_space = self._titles[address] < MAX_TITLES and len(self._objects) < MAX_KEYS
        if has_space and others not in self._objects:
            return key
        known = others in self._objects or len(self._objects) < MAX_KEYS + MAX_ADDRESSES
        return others if known else ("", OTHERS)

    def _begin(self) -> int:
        """Return the current minute, and forget the counts of an earlier one."""
        minute = int(time.monotonic() // MINUTE)
        if minute != self._minute:
            self._minute = minute
            self._objects.clear()
            self._bytes.clear()
            self._titles.clear()
        return minute


class Quotas:
    """Compare what a sender has sent with its quota; a child also counts what the other processes have received."""

    def __init__(self, limits: Dicom) -> None:
        self._limits = limits
        #: Of this process; of a child, only what it has not passed on.
        self.own = Usage()
        #: Of all processes, from the parent.
        self._all = Usage()
        #: Passed on, and not yet in a beat of the parent.
        self._passed = Usage()

    def check(self, peer: Peer, known: KnownPeer) -> None:
        """Raise OutOfResources if the quota of *peer* is used up."""
        objects = known.objects_per_minute or self._limits.max_objects_per_minute
        megabytes = known.megabytes_per_minute or self._limits.max_megabytes_per_minute
        if objects is None and megabytes is None:
            return
        key = peer.address, peer.calling_ae_title
        used = [usage.of(key) for usage in (self.own, self._passed, self._all)]
        if objects is not None and sum(count for count, _ in used) >= objects:
            raise OutOfResources("objects a minute of the AE title used up; send it again")
        if megabytes is not None and sum(size for _, size in used) >= megabytes * MEGABYTE:
            raise OutOfResources("bytes a minute of the AE title used up; send it again")

    def count(self, peer: Peer, size: int) -> None:
        """Count a stored object."""
        self.own.add((peer.address, peer.calling_ae_title), 1, size)

    def take(self) -> list[list[Any]]:
        """Return the counts of this process for the parent, and forget them."""
        rows = self.own.rows(forget=True)
        self._passed.include(rows)
        return rows

    def replace(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take the counts of all processes from a beat of the parent."""
        self._all, self._passed = Usage(), Usage()
        self._all.include(rows)
