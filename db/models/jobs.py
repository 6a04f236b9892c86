"""Queue: one report job per revision of a study, and the jobs of inquiries."""

import datetime as dt
import uuid

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, SmallInteger, text
from sqlalchemy.orm import Mapped, mapped_column

from db.models.base import Base, database_time, ends_with_reason, one_of, time_ordered_id
from db.states import JobKind, JobState

#: A trigger notifies this channel of every job that becomes `queued`.
QUEUED_CHANNEL = "prelim_job_queued"
ENDED_WITHOUT_REPORT = (JobState.NOT_REPORTABLE, JobState.FAILED, JobState.SUPERSEDED, JobState.CANCELLED)


class Job(Base):
    """One report or answer to be written, for one revision of one study; the Celery message only wakes a worker."""

    __tablename__ = "jobs"

    id: Mapped[uuid.UUID] = time_ordered_id()
    # CASCADE: a job without its study has no meaning.
    study_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    #: The server's default is for processes of an earlier release during an upgrade.
    kind: Mapped[str] = mapped_column(default=JobKind.REPORT, server_default=JobKind.REPORT)
    #: The newest revision when it was queued: it reads no image of a later one.
    revision: Mapped[int] = mapped_column(Integer)
    state: Mapped[str] = mapped_column(default=JobState.QUEUED)
    priority: Mapped[int] = mapped_column(SmallInteger, default=0)
    #: Incremented by every claim; a write must name the current one.
    fence: Mapped[int] = mapped_column(default=0)
    #: Drawn by every claim; a write must name it too. A standby without the last claims repeats fences, not tokens.
    claim_token: Mapped[uuid.UUID | None]
    #: Claims so far, counted at the claim: a study that kills its worker is counted too.
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    lease_until: Mapped[dt.datetime | None]
    owner: Mapped[str | None]
    queued_at: Mapped[dt.datetime] = database_time()
    #: Order of the queue: the class of its priority, then the time of queueing (db.studies.priority).
    urgent_at: Mapped[dt.datetime] = database_time()
    #: Earliest time of a claim; in the future after a transient failure.
    available_at: Mapped[dt.datetime] = database_time()
    #: Time its Celery message was last sent; NULL: not sent yet.
    sent_at: Mapped[dt.datetime | None]
    claimed_at: Mapped[dt.datetime | None]
    finished_at: Mapped[dt.datetime | None]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    #: File and line of the last unexpected error's frames, without its text, which could quote a patient.
    frames: Mapped[list[str] | None]

    __table_args__ = (
        one_of("state", JobState),
        one_of("kind", JobKind),
        # One report per revision: two dispatchers that settle the same study make one.
        Index("jobs_report", "study_id", "revision", unique=True, postgresql_where=text("kind = 'report'")),
        # Deletion of a study, and a change of its priority.
        Index("jobs_study", "study_id"),
        CheckConstraint(
            "(state = 'running') = (lease_until IS NOT NULL) AND (state <> 'running' OR owner IS NOT NULL)",
            name="running_has_a_lease",
        ),
        ends_with_reason(ENDED_WITHOUT_REPORT),
        Index("jobs_queued", "urgent_at", postgresql_where=text("state = 'queued'")),
        # Claims: whether a poison candidate waits or runs.
        Index(
            "jobs_poison_candidates",
            "state",
            "available_at",
            postgresql_where=text(
                "state IN ('queued', 'running') AND reason IN ('lease_expired', 'no_progress', 'gpu_lost')"
            ),
        ),
        # Not on lease_until, which every extension changes: such an update would change every index.
        Index("jobs_running", "id", postgresql_where=text("state = 'running'")),
        # Alarms, outcomes and forecast: the latest claims and ends.
        Index("jobs_claimed", "claimed_at"),
        Index("jobs_finished", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        # Alarm: reasons of the last hour, without its reports.
        Index("jobs_without_report", "finished_at", postgresql_where=text("state IN ('failed', 'not_reportable')")),
        Index(
            "jobs_errors",
            text("COALESCE(finished_at, claimed_at) DESC"),
            postgresql_where=text("state IN ('failed', 'queued') AND reason <> 'operator'"),
        ),
    )
