"""Signs of life: each process tells Postgres that it is there, so that `prelim status` asks one place."""

from __future__ import annotations

import os
import socket
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert

from db.models import Process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.orm import Session

#: A process not seen for this many seconds is taken for dead: three missed beats.
ALIVE_SECONDS = 30
BEAT_SECONDS = 10


class Role(StrEnum):
    """Processes of an installation; DISPATCHER and WORKER write heartbeats."""

    LISTENER = "listener"
    DISPATCHER = "dispatcher"
    WORKER = "worker"
    API = "api"
    FLOWER = "flower"


def name() -> str:
    """This process, for the `owner` of a job and for its own row."""
    return f"{socket.gethostname()}:{os.getpid()}"


def beat(session: Session, role: Role, info: dict[str, Any] | None = None) -> None:
    """Say that this process is alive."""
    row = insert(Process).values(name=name(), role=role, info=info or {})
    session.execute(
        row.on_conflict_do_update(
            index_elements=["name"],
            set_={"seen_at": func.clock_timestamp(), "role": role, "info": row.excluded.info},
        )
    )


def alive(session: Session, role: Role | None = None) -> Sequence[Process]:
    """The processes that gave a sign within ALIVE_SECONDS, by role and name."""
    age = func.extract("epoch", func.clock_timestamp() - Process.seen_at)
    query = select(Process).where(age < ALIVE_SECONDS).order_by(Process.role, Process.name)
    return session.scalars(query if role is None else query.where(Process.role == role)).all()
