"""Audit log: append-only rows in hash chains, one chain a process.

Each row holds the hash of the row before, so a changed, removed or inserted row is found. One chain for all writers
would make each of them wait for the commit of the one before it, hundreds of microseconds to milliseconds of disk each.
So a process has a chain of its own, which it alone appends to, without any lock; it starts one at its first row, after
an error, and each day. A start is written under an advisory lock that is held for one short transaction, and names the
last rows of the chains before: removing these rows, the end of a chain or a whole chain is found too, unless every
later start is replaced. `prelim audit-log verify` prints the heads, to be kept outside of the database.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, select, text

from db.models import AuditChain, AuditRow
from db.session import statements, transaction

if TYPE_CHECKING:
    import uuid
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy.orm import Session

#: Advisory lock of the starts of chains.
LOCK = 1_401
#: Seconds after which a process starts another chain: the heads of the others are named at least so often.
CHAIN_SECONDS = 24 * 3600
#: Earlier chains whose last rows a start names.
NAMED_HEADS = 100
#: Previous hash of the first start, and of the first row of a chain.
NONE = ""
#: All rows of a batch as one parameter: one round trip, without the cost of SQLAlchemy's INSERT.
INSERT = "INSERT INTO audit_rows SELECT * FROM json_populate_recordset(NULL::audit_rows, %(rows)s::json)"
#: Rows read at a time by `verify`.
READ_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """Access of one request to patient data, or a login."""

    at: dt.datetime
    action: str
    status: int
    principal: str
    address: str
    route: str
    studies: list[uuid.UUID] = field(default_factory=list)
    detail: dict[str, Any] = field(default_factory=dict)


#: Columns of an entry.
ENTRY = tuple(each.name for each in fields(Entry))


class Chain:
    """Chain of this process in one database."""

    def __init__(self, process: str) -> None:
        self._process = process
        self._lock = threading.Lock()
        self._number: int | None = None
        self._sequence = 0
        self._last = NONE
        self._ends = 0.0

    def append(self, url: str, entries: Sequence[Entry]) -> None:
        """Append *entries* durably, all or none; raises as `commit` does."""
        # One statement is one transaction, in one round trip. The start of a chain needs a longer transaction.
        for opened in (statements, transaction):
            with opened(url) as session:
                # Before the lock, whose holder must not wait for a connection: `commit` waits for it with one.
                session.connection()
                if self._appended(session, entries, may_start=opened is transaction):
                    return

    def commit(self, session: Session, entries: Sequence[Entry]) -> None:
        """Commit the changes of *session* together with *entries*, or neither; it can execute nothing afterwards.

        Raises what the database raises, and then starts another chain: after an error it is unknown which rows are
        stored, and none is appended behind them.
        """
        self._appended(session, entries, may_start=True)

    def _appended(self, session: Session, entries: Sequence[Entry], *, may_start: bool) -> bool:
        """Insert and commit; return False, and change nothing, if a chain must be started and *may_start* is false."""
        with self._lock:
            starts = self._number is None or time.monotonic() >= self._ends
            if starts and not may_start:
                return False
            try:
                if starts:
                    self._start(session)
                sequence, last = self._insert(session, entries)
                session.commit()
            except BaseException:
                self._number = None
                raise
            self._sequence, self._last = sequence, last
            return True

    def _insert(self, session: Session, entries: Sequence[Entry]) -> tuple[int, str]:
        """Insert the rows of *entries*; return sequence and hash of the last one."""
        rows, last = [], self._last
        for sequence, entry in enumerate(entries, start=self._sequence + 1):
            row = _json({"chain": self._number, "sequence": sequence, **_plain(entry), "previous": last})
            last = _sha256(row)
            # Not encoded again: a page of the work list has many studies.
            rows.append(f'{row[:-1]},"hash":"{last}"}}')
        session.connection().exec_driver_sql(INSERT, {"rows": f"[{','.join(rows)}]"})
        return self._sequence + len(rows), last

    def _start(self, session: Session) -> None:
        session.execute(select(func.pg_advisory_xact_lock(LOCK)))
        before = session.scalars(select(AuditChain).order_by(AuditChain.number.desc()).limit(1)).one_or_none()
        row = {
            "number": 1 if before is None else before.number + 1,
            "process": self._process,
            "started_at": dt.datetime.now(dt.UTC),
            "heads": heads(session),
            "previous": NONE if before is None else before.hash,
        }
        session.execute(insert(AuditChain), [row | {"hash": digest(row)}])
        self._number, self._sequence, self._last = int(row["number"]), 0, NONE  # type: ignore[call-overload]
        self._ends = time.monotonic() + CHAIN_SECONDS


def _plain(entry: Entry) -> dict[str, Any]:
    return {column: getattr(entry, column) for column in ENTRY} | {"studies": list(map(str, entry.studies))}


def digest(row: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a row without its hash, in an encoding that the stored values give again."""
    return _sha256(_json(row))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_encoded)


def _encoded(value: Any) -> str:
    return value.astimezone(dt.UTC).isoformat(timespec="microseconds") if isinstance(value, dt.datetime) else str(value)


def heads(session: Session) -> dict[str, list[Any]]:
    """Return the last row of each of the latest chains, by number: sequence and hash."""
    rows = session.execute(
        text("""
            SELECT recent.number, last.sequence, last.hash
            FROM (SELECT number FROM audit_chains ORDER BY number DESC LIMIT :limit) AS recent
            CROSS JOIN LATERAL (
                SELECT sequence, hash FROM audit_rows WHERE chain = recent.number ORDER BY sequence DESC LIMIT 1
            ) AS last
        """),
        {"limit": NAMED_HEADS},
    )
    return {str(number): [sequence, digest_] for number, sequence, digest_ in rows}


@dataclass(slots=True)
class Verified:
    """Result of a verification: numbers, the heads, and the problems found."""

    chains: int = 0
    rows: int = 0
    problems: list[str] = field(default_factory=list)
    #: Last row of each chain: sequence and hash.
    heads: dict[str, list[Any]] = field(default_factory=dict)


def verify(session: Session, known: Mapping[str, Sequence[Any]] | None = None) -> Verified:
    """Recompute all hashes. *known* are heads that an earlier verification printed: their rows must still be there."""
    found = Verified()
    expected = {(number, head[0]): head[1] for number, head in (known or {}).items()}
    previous, number, started = NONE, 0, set()
    for start in session.scalars(select(AuditChain).order_by(AuditChain.number)):
        number += 1
        if start.number != number or start.previous != previous or start.hash != digest(_content(start)):
            found.problems.append(f"start of chain {start.number}: changed, or a start before it is missing")
            number = start.number
        previous = start.hash
        started.add(str(number))
        expected |= {(name, head[0]): head[1] for name, head in start.heads.items()}
    found.chains = number
    for name, sequence, found_hash in _rows(session, found):
        if expected.pop((name, sequence), found_hash) != found_hash:
            found.problems.append(f"chain {name}, row {sequence}: not the row that a later record names")
    found.problems += [f"chain {name}: its start is missing" for name in sorted(found.heads.keys() - started)]
    found.problems += [f"chain {name}: row {sequence} and its later rows are missing" for name, sequence in expected]
    return found


def _rows(session: Session, found: Verified) -> Iterator[tuple[str, int, str]]:
    """Yield chain, sequence and hash of every row, and note the problems of each chain and its head."""
    query = select(AuditRow).order_by(AuditRow.chain, AuditRow.sequence).execution_options(yield_per=READ_ROWS)
    for row in session.scalars(query):
        name = str(row.chain)
        sequence, previous = found.heads.get(name, [0, NONE])
        if (row.sequence, row.previous) != (sequence + 1, previous):
            found.problems.append(f"chain {name}, row {row.sequence}: a row before it is missing or was changed")
        if row.hash != digest(_content(row)):
            found.problems.append(f"chain {name}, row {row.sequence}: changed")
        found.heads[name] = [row.sequence, row.hash]
        found.rows += 1
        yield name, row.sequence, row.hash
        session.expunge(row)


def _content(row: AuditChain | AuditRow) -> dict[str, Any]:
    return {column.name: getattr(row, column.name) for column in row.__table__.columns if column.name != "hash"}
