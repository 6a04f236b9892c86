"""List the inboxes of a spool for processes that read and count: one that cannot be listed does not stop the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dicom_listener.spool.durable import COMPLETE
from dicom_listener.spool.waiting import received_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dicom_listener.spool.durable import Spool


def received(spool: Spool, errors: list[OSError], suffix: str = COMPLETE) -> Iterator[Path]:
    """Yield the paths of the acknowledged files that are not yet indexed, of all slots; others by *suffix*.

    The error of an inbox that cannot be listed is added to *errors*, with the path of the inbox.
    """
    for slot in spool.slots():
        try:
            yield from (slot.inbox / name for name in received_in(slot.inbox, suffix))
        except OSError as error:
            error.filename = str(slot.inbox)
            errors.append(error)
