"""Pass on the listener's status to the dispatcher, as the file `listener.json` of its slot.

It is a file, because the listener runs without PostgreSQL: the dispatcher reads it for a heartbeat in the listener's
name. Only the listener's accepting thread writes it, atomically and regularly: its age shows whether that thread runs.
Of several processes, each writes its own while the process that accepts connections sends it beats. Each removes it at
the beginning of its end.
"""

from __future__ import annotations

import errno
import json
import os
import time
from types import NoneType
from typing import TYPE_CHECKING, Any

from dicom_listener.spool.durable import read_text

if TYPE_CHECKING:
    from pathlib import Path

    from dicom_listener.spool.durable import Spool

#: Seconds between two writes.
WRITE_SECONDS = 2.0
#: Age of a file that a listener no longer writes: a disk may be slow, and the clock be stepped a little.
STALE_SECONDS = 15.0
#: Types of the fields, of which only the process is required, and of the values in each row of a list.
FIELDS: dict[str, type | tuple[type, ...]] = {
    "process": str,
    "release": str,
    "open": int,
    "limit": int,
    "parent": (dict, NoneType),
    "draining": bool,
    "intake": dict,
    "certificate": (dict, NoneType),
}
INTAKE = {"level": "", "cause": ""}
CERTIFICATE: dict[str, type | tuple[type, ...]] = {
    "ends": (int, float, NoneType),
    "fingerprint": str,
    "authorities": str,
}
ROWS = {"refused": (str, str, int), "causes": (str, str, int, float)}


def write(path: Path, status: dict[str, Any]) -> None:
    """Replace the file; on a full disk, only its time. Raises OSError."""
    fresh = path.with_suffix(".new")
    try:
        fresh.write_text(json.dumps(status))
        fresh.replace(path)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        # Needs no space: the alarm for the full disk must not be joined by one for a dead listener.
        os.utime(path)


def read(path: Path, max_age: float = STALE_SECONDS) -> dict[str, Any] | None:
    """Return the status of a running listener; None if no listener has written the file in the last *max_age* seconds.

    None also for a damaged file: the listener then counts as silent, with an alarm.
    """
    try:
        if time.time() - path.stat().st_mtime > max_age:
            return None
        status: dict[str, Any] = json.loads(read_text(path))
        return status if _is_status(status) and _is_storable(status) else None
    except (OSError, ValueError, RecursionError):
        return None


def read_all(spool: Spool) -> list[dict[str, Any]]:
    """Return the status of each running listener; none if the disk fails: the dispatcher goes on."""
    try:
        return [status for slot in spool.slots() if (status := read(slot.status))]
    except OSError as error:
        import structlog  # noqa: PLC0415 - the health check, which reads this module, uses the standard library only

        log = structlog.get_logger()
        log.error("listener.status_unreadable", error=error.strerror)  # noqa: TRY400 - of the disk
        return []


def _is_status(found: Any) -> bool:
    """Return whether *found* has the fields of a status with values that the readers of its heartbeat expect."""
    if not isinstance(found, dict) or "process" not in found:
        return False
    fields = all(isinstance(found[name], types) for name, types in FIELDS.items() if name in found)
    texts = [found.get("intake", INTAKE).get(name) for name in INTAKE] if fields else []
    return (
        fields
        and all(isinstance(text, str) for text in texts)
        and _is_certificate(found.get("certificate"))
        and all(_has_rows(found.get(name, []), types) for name, types in ROWS.items())
    )


def _is_certificate(found: dict[str, Any] | None) -> bool:
    return found is None or (
        found.keys() >= CERTIFICATE.keys()
        and all(isinstance(found[name], types) for name, types in CERTIFICATE.items())
    )


def _has_rows(found: Any, types: tuple[type, ...]) -> bool:
    return isinstance(found, list) and all(
        isinstance(row, list) and len(row) == len(types) and all(map(isinstance, row, types)) for row in found
    )


def _is_storable(status: dict[str, Any]) -> bool:
    """Return whether PostgreSQL takes it as JSON: no NUL; raises ValueError for a surrogate or an infinite number."""
    text = json.dumps(status, ensure_ascii=False, allow_nan=False)
    return bool(text.encode()) and "\\u0000" not in text
