"""Heartbeats of processes, lost GPUs, the backups made, the canaries sent and the traces exported."""

import datetime as dt
import uuid
from typing import Any

from sqlalchemy import CheckConstraint, Index, text
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


class LostGpu(Base):
    """A GPU that has stopped computing in a worker (db.jobs.lost_gpus)."""

    __tablename__ = "lost_gpus"

    #: Its UUID, or host and number where the driver has no UUID.
    gpu: Mapped[str] = mapped_column(primary_key=True)
    #: Name of the worker.
    process: Mapped[str]
    lost_at: Mapped[dt.datetime] = database_time()


class Total(Base):
    """Count and sum of one figure since the installation (db.operations.totals)."""

    __tablename__ = "totals"

    metric: Mapped[str] = mapped_column(primary_key=True)
    #: Bounded in number, and never patient data: Prometheus stores each combination.
    labels: Mapped[list[str]] = mapped_column(primary_key=True)
    number: Mapped[int]
    amount: Mapped[float]


class TotalsUntil(Base):
    """Time up to which `totals` counts; its one row is locked by the dispatcher that adds to them."""

    __tablename__ = "totals_until"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    until: Mapped[dt.datetime] = database_time()

    __table_args__ = (CheckConstraint("id = 1", name="one_row"),)


class Backup(Base):
    """A complete backup (`prelim backup`), wherever it is now."""

    __tablename__ = "backups"

    #: Name of its folder.
    name: Mapped[str] = mapped_column(primary_key=True)
    begun_at: Mapped[dt.datetime]
    ended_at: Mapped[dt.datetime]
    files: Mapped[int]
    bytes: Mapped[int]
    #: Time of the last `prelim restore --verify` without a violation.
    verified_at: Mapped[dt.datetime | None]


class Canary(Base):
    """A phantom study that the installation sends to itself (`prelim canary`); it is in no list and no count."""

    __tablename__ = "canaries"

    study_instance_uid: Mapped[str] = mapped_column(primary_key=True)
    begun_at: Mapped[dt.datetime] = database_time()
    ended_at: Mapped[dt.datetime | None]
    #: Why it ended without a report; empty: it has one.
    problem: Mapped[str | None]

    __table_args__ = (CheckConstraint("(ended_at IS NULL) = (problem IS NULL)", name="ended_has_a_result"),)


class TraceExport(Base):
    """Export of traces to a collector (db.jobs.trace_queue); its one row exists while they are exported."""

    __tablename__ = "trace_export"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False, default=1)
    #: End and id of the last job whose trace was sent; jobs that ended before the first start are not.
    until: Mapped[dt.datetime] = database_time()
    last_job: Mapped[uuid.UUID] = mapped_column(server_default=text("'00000000-0000-0000-0000-000000000000'"))
    #: Process whose turn it is, up to the second time on the database's clock.
    owner: Mapped[str | None]
    lease_until: Mapped[dt.datetime | None]
    #: Why the last attempt failed; empty after a success.
    problem: Mapped[str] = mapped_column(server_default=text("''"))
    #: Jobs that were sent, jobs that became too old to be sent, and spans that the collector rejected.
    sent: Mapped[int] = mapped_column(server_default=text("0"))
    skipped: Mapped[int] = mapped_column(server_default=text("0"))
    rejected: Mapped[int] = mapped_column(server_default=text("0"))

    __table_args__ = (
        CheckConstraint("id = 1", name="one_row"),
        CheckConstraint("(owner IS NULL) = (lease_until IS NULL)", name="owner_has_a_lease"),
    )
