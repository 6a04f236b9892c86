"""Heartbeats of processes."""

import datetime as dt
from typing import Any

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time

#: Seconds without a heartbeat after which a process counts as dead: three intervals.
ALIVE_SECONDS = 30


class Process(Base):
    """Heartbeat of one process, so that operators see the live processes without Celery."""

    __tablename__ = "processes"

    #: Host name and process id: a restarted process has a new row, except in a container, where both are the same.
    name: Mapped[str] = mapped_column(primary_key=True)
    role: Mapped[str]
    #: Time of the first heartbeat of this process.
    started_at: Mapped[dt.datetime] = database_time()
    seen_at: Mapped[dt.datetime] = database_time()
    #: Model digest, slots, addresses; never patient data.
    info: Mapped[dict[str, Any]] = mapped_column(default=dict)

    __table_args__ = (Index("processes_seen", "role", "seen_at"),)
