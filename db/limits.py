"""Limits that processes share: on the structure of a DICOM object, the time of a session of the database, and clocks.

The listener refuses an object that exceeds them, so that the worker can read every acknowledged object. Limits on
decoding (bytes of a frame, number of frames) are in worker/images: an image beyond them is stored, and the report says
that it was left out.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import LiteralString

#: Bytes of a data set after inflation. Deflate reaches 1:1000, so 1 MB could become 1 GB; in practice only text and
#: small images are sent deflated.
MAX_INFLATED_BYTES = 256 << 20

#: Sequences and items of undefined length open at once. Structured reports reach about 20; pydicom, which reads storage
#: commitment and procedure step requests, runs out of stack near 200.
MAX_NESTING = 100

#: Elements, items and fragments of one data set; delimiters are not counted, a value of defined length counts once.
#: An enhanced object of 5000 frames has about 250 000, a million tiny ones take a second to walk.
MAX_ELEMENTS = 1_000_000

#: Time by which the clocks of hosts, or of a primary and its standbys, may differ: a later time is of a wrong clock.
MAX_SKEW = dt.timedelta(minutes=1)
#: Seconds that a transaction may take, and that a client waits for an answer, beyond the limit of a statement.
GRACE_SECONDS = 2
#: Ends a session that is idle for so long, also outside of a transaction: a suspended process keeps no advisory lock.
#: PostgreSQL 14 or later.
SESSION_LIMIT: LiteralString = (
    "SELECT set_config('idle_session_timeout', '9s', false) WHERE current_setting('server_version_num')::int >= 140000"
)


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """Seconds after which the server ends a statement, the wait for a lock, an idle transaction; 0: no limit."""

    statement: float
    lock: float
    idle: float

    @property
    def transaction(self) -> float:
        """Seconds after which the server ends a transaction, and the client no longer waits for an answer.

        No other limit ends a transaction whose client has sent a part of its statements or of a message.
        """
        return self.statement and self.statement + GRACE_SECONDS

    def parameters(self, server_version: int) -> dict[str, str]:
        """Return the limits as parameters of a session of PostgreSQL *server_version*, in milliseconds."""
        limits = {
            "statement_timeout": self.statement,
            "lock_timeout": self.lock,
            "idle_in_transaction_session_timeout": self.idle,
        }
        if server_version >= 17_00_00:  # noqa: PLR2004 - an earlier one has no such limit
            limits["transaction_timeout"] = self.transaction
        return {name: f"{seconds * 1000:.0f}" for name, seconds in limits.items()}
