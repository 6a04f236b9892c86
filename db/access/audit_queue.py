"""Rows of the audit log that wait for the audit record repository: the log itself is the queue.

Of each chain, the last row that was sent is stored. A process appends to its chain under a lock, each row committed
before the next, so the rows after that one are complete: none can be committed later in front of it.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert

from db.models import AuditRow, AuditSyslog
from db.session import connect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sqlalchemy.orm import Session

    from db.connection import Connection
    from db.settings import Settings

#: Advisory lock of the one process that sends.
LOCK = 1_403
#: Ends the lock of a process that is suspended for so long; PostgreSQL 14 or later. A batch takes less.
SUSPENDED_SECONDS = 180
#: Chains of which rows are read at a time, those with the oldest rows first.
CHAINS = 32
#: Age of its start from which a chain counts as complete: a process starts another one after a day.
COMPLETE = dt.timedelta(days=2)
#: First row of each chain that waits, if any. A later row is found, too, after one that was removed by force.
HEADS = """
    SELECT chains.number AS chain, coalesce(sent.sequence, 0) AS sent, head.at
    FROM audit_chains AS chains
    LEFT JOIN audit_syslog_sent AS sent ON sent.chain = chains.number
    CROSS JOIN LATERAL (
        SELECT at FROM audit_rows WHERE chain = chains.number AND sequence > coalesce(sent.sequence, 0)
        ORDER BY sequence LIMIT 1
    ) AS head
    WHERE chains.number >= {first}
"""
#: In the order of each chain, and by time between chains, where a row is no older than those before it in its chain.
#: Nothing is read beyond the first row of the chains that were left out.
NEXT = text(f"""
    WITH heads AS MATERIALIZED (
        SELECT * FROM ({HEADS.format(first="CAST(:first AS bigint)")}) AS found ORDER BY at, chain LIMIT :chains + 1
    ), waiting AS (
        SELECT each.*, max(each.at) OVER (PARTITION BY each.chain ORDER BY each.sequence) AS turn
        FROM (SELECT * FROM heads ORDER BY at, chain LIMIT :chains) AS head
        CROSS JOIN LATERAL (
            SELECT * FROM audit_rows WHERE audit_rows.chain = head.chain AND sequence > head.sent
            ORDER BY sequence LIMIT :rows
        ) AS each
    )
    SELECT {", ".join(column.name for column in AuditRow.__table__.columns)} FROM waiting
    WHERE turn <= coalesce((SELECT at FROM heads ORDER BY at, chain OFFSET :chains), 'infinity')
    ORDER BY turn, chain, sequence LIMIT :rows
""")  # noqa: S608 - names of columns
WAITING = text(f"""
    SELECT coalesce(found.rows, 0), extract(epoch FROM clock_timestamp() - greatest(found.oldest, begun_at)), problem
    FROM audit_syslog CROSS JOIN LATERAL (
        SELECT sum(last.sequence - heads.sent) AS rows, min(heads.at) AS oldest
        FROM ({HEADS.format(first="audit_syslog.first_chain")}) AS heads
        CROSS JOIN LATERAL (
            SELECT sequence FROM audit_rows WHERE audit_rows.chain = heads.chain ORDER BY sequence DESC LIMIT 1
        ) AS last
    ) AS found
""")  # noqa: S608 - the same
FORWARD = text(f"""
    UPDATE audit_syslog SET first_chain = least(
        (SELECT min(chain) FROM ({HEADS.format(first="1")}) AS heads),
        (SELECT min(number) FROM audit_chains WHERE started_at > now() - CAST(:complete AS interval)),
        (SELECT coalesce(max(number), 0) + 1 FROM audit_chains))
""")  # noqa: S608 - the same
ADVANCE = """
    INSERT INTO audit_syslog_sent (chain, sequence) VALUES (%s, %s)
    ON CONFLICT (chain) DO UPDATE SET sequence = greatest(audit_syslog_sent.sequence, excluded.sequence)
"""
#: Alarm for a repository that is configured, and to which nothing was ever sent.
NEVER_SENT = (
    "audit_syslog",
    "PRELIM_AUDIT_SYSLOG_URL is set and the audit log was never sent: start `prelim audit-log send`",
)


class Waiting(NamedTuple):
    """Rows that wait; seconds since the oldest one waits, 0 without one; the last problem, empty after a success."""

    rows: int
    seconds: float
    problem: str


def begin(session: Session) -> None:
    """Record that the log is sent, unless it is recorded."""
    session.execute(insert(AuditSyslog).values(id=1, first_chain=1, problem="").on_conflict_do_nothing())


def end(session: Session) -> None:
    """Record that the log is no longer sent; the next `begin` goes on after the last row that was sent."""
    session.execute(delete(AuditSyslog))


def forward(session: Session) -> None:
    """Leave out the chains that are complete and sent, until the next call: a look at each of them takes time."""
    session.execute(FORWARD, {"complete": COMPLETE})


def next_rows(session: Session, limit: int) -> Sequence[AuditRow]:
    """Return the next rows to send, at most *limit*."""
    first = session.scalar(select(AuditSyslog.first_chain)) or 1
    query = select(AuditRow).from_statement(NEXT)
    return session.scalars(query, {"first": first, "chains": CHAINS, "rows": limit}).all()


def waiting(session: Session) -> Waiting | None:
    """Return the figures of the queue; None if the log is not sent."""
    found = session.execute(WAITING).one_or_none()
    return None if found is None else Waiting(int(found[0]), max(float(found[1] or 0), 0) if found[0] else 0, found[2])


def alarm(found: Waiting | None, after_seconds: float) -> tuple[str, str] | None:
    """Return the alarm for a row that waits for longer than *after_seconds*."""
    if found is None or found.seconds <= after_seconds:
        return None
    cause = f"the last problem: {found.problem}" if found.problem else "no attempt failed: the sender may not run"
    rows = "1 row of the audit log waits" if found.rows == 1 else f"{found.rows} rows of the audit log wait"
    return "audit_syslog", (
        f"{rows} for the audit record repository, the oldest for {found.seconds / 60:.0f} min; {cause}: see the log of"
        " `prelim audit-log send`, and `prelim doctor`; nothing is lost"
    )


def raised(session: Session, settings: Settings, *, begun: bool, running_seconds: float) -> tuple[str, str] | None:
    """Return the alarm for rows that wait or, before the log is sent (*begun*), for a sender that does not begin."""
    after_seconds = settings.operations.alarm_seconds
    if begun:
        return alarm(waiting(session), after_seconds)
    return NEVER_SENT if settings.audit.audit_syslog_url and running_seconds > after_seconds else None


class Turn:
    """The one process whose turn it is to send; what it sent counts only while its session has the lock.

    Raises psycopg.Error if the session has ended.
    """

    def __init__(self, url: str) -> None:
        self._connection: Connection = connect(url)
        if self._connection.info.server_version >= 14_00_00:  # noqa: PLR2004 - an earlier one has no such limit
            self._connection.execute("SELECT set_config('idle_session_timeout', %s, false)", [f"{SUSPENDED_SECONDS}s"])
        self._taken = False

    def take(self) -> bool:
        """Take the turn unless another process has it; return whether it is this one's."""
        if not self._taken:
            self._taken = _first(self._connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchone())
        else:
            self._connection.execute("SELECT 1")
        return self._taken

    def advance(self, sent: Mapping[int, int]) -> None:
        """Store the last row sent of each chain, in one transaction."""
        with self._connection.transaction():
            for pair in sent.items():
                self._connection.execute(ADVANCE, pair)
            self._connection.execute("UPDATE audit_syslog SET sent_at = clock_timestamp(), problem = ''")

    def note_problem(self, problem: str) -> None:
        """Store why an attempt failed."""
        self._connection.execute("UPDATE audit_syslog SET problem = %s", [problem])

    def close(self) -> None:
        """Give the turn up."""
        self._connection.close()


def _first(row: tuple[Any, ...] | None) -> bool:
    return bool(row and row[0])


def last_of_each(rows: Iterable[AuditRow]) -> dict[int, int]:
    """Return the last sequence of each chain; *rows* are in the order of `next_rows`."""
    return {row.chain: row.sequence for row in rows}
