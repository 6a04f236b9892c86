"""Rows of the audit log about commands by which a user of the machine reads, changes or deletes patient data."""

from __future__ import annotations

import datetime as dt
import getpass
from typing import TYPE_CHECKING

from db.access.audit_log import Chain, Entry
from db.operations import heartbeats

if TYPE_CHECKING:
    import uuid
    from collections.abc import Mapping, Sequence

    from db.settings import Settings

#: Status of a command that does what it is asked to, in HTTP's terms.
OK = 200


def user() -> str:
    """Return the name of the user of this terminal, for the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container without an entry for its user id.
        return "unknown"


def chain() -> Chain:
    """Return a chain for the rows of this command."""
    return Chain(heartbeats.name())


def entry(action: str, command: str, studies: Sequence[uuid.UUID], detail: Mapping[str, int] | None = None) -> Entry:
    """Return the row of a command of this user about *studies*; *detail* has numbers."""
    return Entry(dt.datetime.now(dt.UTC), action, OK, f"user {user()}", "", command, list(studies), dict(detail or {}))


def note(settings: Settings, action: str, command: str, studies: Sequence[uuid.UUID]) -> None:
    """Store such a row; call it before the first line is printed: nothing is shown if the row cannot be stored."""
    chain().append(settings.database(), [entry(action, command, studies)])
