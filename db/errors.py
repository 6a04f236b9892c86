"""States, reasons and errors shared by the processes."""

from __future__ import annotations

from enum import StrEnum


class StudyState(StrEnum):
    """State of a study. While it is SETTLED, the state of its job says whether it waits or runs."""

    RECEIVING = "receiving"
    SETTLED = "settled"
    REPORTED = "reported"
    NOT_REPORTABLE = "not_reportable"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobState(StrEnum):
    """State of a job; all but the first two are final."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    NOT_REPORTABLE = "not_reportable"
    FAILED = "failed"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"


#: States of a job that can still become a report.
OPEN_JOBS = (JobState.QUEUED, JobState.RUNNING)


class PrelimError(Exception):
    """Base of every error Prelim raises on purpose; its text is fit for an operator and holds no patient data."""


class ConfigurationError(PrelimError):
    """Raised when a setting, file or service named in the configuration cannot be used; says what to change."""


class Outcome(PrelimError):
    """Base of the ways a run ends without a report; *reason* is a short stable code, *detail* says it to a person."""

    def __init__(self, reason: str, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class NotReportable(Outcome):
    """Raised when a study can never become a report: a lasting property of its images, not a fault of ours."""


class TransientFailure(Outcome):
    """Raised when a run failed for a reason that may pass: the job is tried again later."""


class PermanentFailure(Outcome):
    """Raised when a run failed and another try would fail the same way: the job ends as failed."""


class StaleFence(PrelimError):
    """Raised when a worker writes for a job it no longer owns: it is a zombie and must drop its result."""


class UnknownStudy(PrelimError):
    """Raised when no study, or more than one, matches what the operator named."""


class NotPossible(PrelimError):
    """Raised when what an operator asked for does not fit the state of the study."""
