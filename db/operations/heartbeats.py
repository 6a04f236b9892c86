"""Heartbeats: each process updates its row in Postgres, so that `prelim status` reads one place."""

from __future__ import annotations

import datetime as dt
import os
import socket
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, event, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import aliased

from db.models import Process
from db.models.operations import ALIVE_SECONDS
from db.release import release

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

INTERVAL_SECONDS = 10
#: Seconds for which the row of a dead process is kept: operators look at yesterday's.
KEPT_SECONDS = 7 * 86400
#: Processes whose heartbeat this process has committed; a forked process has another name.
_recorded: set[str] = set()


#: Made once: the health check reads it each second. now(): clock_timestamp() is volatile, which rules out an index.
_ALIVE = (
    select(Process)
    .where(Process.seen_at > func.now() - dt.timedelta(seconds=ALIVE_SECONDS))
    .order_by(Process.role, Process.name)
)


class Role(StrEnum):
    """Processes of an installation; those up to API have heartbeats, of which the dispatcher writes the listener's."""

    LISTENER = "listener"
    DISPATCHER = "dispatcher"
    WORKER = "worker"
    API = "api"
    FLOWER = "flower"
    CANARY = "canary"
    AUDIT_SENDER = "audit-sender"
    TRACE_SENDER = "trace-sender"


def name() -> str:
    """Host name and process id: the `owner` of a job and the key of a heartbeat."""
    return f"{socket.gethostname()}:{os.getpid()}"


def record(session: Session, role: Role, info: dict[str, Any] | None = None, *, process: str | None = None) -> None:
    """Record a heartbeat of *process*, by default of this one, whose release is added to *info*."""
    info = dict(info or {}) | ({} if process else {"release": release()})
    process = process or name()
    row = insert(Process).values(name=process, role=role, info=info)
    fresh = {"seen_at": func.clock_timestamp(), "role": role, "info": row.excluded.info}
    if process not in _recorded:
        # The row of an earlier process with the same name.
        fresh["started_at"] = func.clock_timestamp()
        # Not before: after a rollback, the jobs of the earlier process would count as those of this one.
        event.listen(session, "after_commit", lambda _: _recorded.add(process), once=True)
    session.execute(row.on_conflict_do_update(index_elements=["name"], set_=fresh))


def alive(session: Session, role: Role | None = None) -> Sequence[Process]:
    """Return the processes with a heartbeat in the last ALIVE_SECONDS, by role and name."""
    query = _ALIVE if role is None else _ALIVE.where(Process.role == role)
    return session.scalars(query).all()


def last(session: Session, role: Role) -> Sequence[Process]:
    """Return the process of *role* with the latest heartbeat, alive or dead; nothing if there was none."""
    return session.scalars(select(Process).where(Process.role == role).order_by(Process.seen_at.desc()).limit(1)).all()


def forget_dead(session: Session) -> None:
    """Delete the rows of processes that have been dead for long, except the last of each role, which alarms compare."""
    later = aliased(Process)
    succeeded = exists(select(later.name).where(later.role == Process.role, later.seen_at > Process.seen_at))
    old = Process.seen_at < func.now() - dt.timedelta(seconds=KEPT_SECONDS)
    session.execute(delete(Process).where(old, succeeded))
