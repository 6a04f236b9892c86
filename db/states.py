"""States of studies, jobs and findings: the only list of them, for tables, queries, API and page."""

from enum import StrEnum


class StudyState(StrEnum):
    """State of a study. While it is SETTLED, its job is queued or running."""

    RECEIVING = "receiving"
    SETTLED = "settled"
    #: Objects of another identity arrived under its Study Instance UID: a person decides (db.studies.identity).
    HELD = "held"
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


class JobKind(StrEnum):
    """Kind of a job: the report of a revision, or an inquiry about a study. One protocol for all."""

    REPORT = "report"
    QUESTION = "question"
    DIAGNOSIS = "diagnosis"


class DisplayedState(StrEnum):
    """State of a study as the API and the page show it: its own, or its job's while the job is open."""

    RECEIVING = StudyState.RECEIVING
    SETTLED = StudyState.SETTLED
    QUEUED = JobState.QUEUED
    RUNNING = JobState.RUNNING
    HELD = StudyState.HELD
    REPORTED = StudyState.REPORTED
    NOT_REPORTABLE = StudyState.NOT_REPORTABLE
    FAILED = StudyState.FAILED
    CANCELLED = StudyState.CANCELLED


class Check(StrEnum):
    """A check of a draft (worker.grounding.checks); its name is stored, published and a value of a setting."""

    SECTIONS = "findings_against_impression"
    NEGATIONS = "negation"
    SIZES = "size"
    SIDE_AND_VIEW = "laterality"
    SEX = "sex"
    BODY_PART = "body_part"
    PRIOR = "prior"
    REPETITION = "repetition"
    TRUNCATION = "truncation"
    IMPRESSION = "empty_impression"
    IDENTIFYING = "identifying_text"
    SUPPORT = "unsupported"
    CRITICAL = "critical_finding"
    CRITICAL_OMITTED = "critical_omitted"


class CheckState(StrEnum):
    """Result of a check, in the order of display. A notice is no fault: a critical finding in the text."""

    WARNING = "warning"
    NOTICE = "notice"
    PASSED = "passed"
    NOT_APPLICABLE = "not_applicable"


#: Kinds of the jobs that end with an answer (db.answers).
INQUIRIES = (JobKind.QUESTION, JobKind.DIAGNOSIS)
#: States of a job that can still end with its result.
OPEN_JOBS = (JobState.QUEUED, JobState.RUNNING)
#: Displayed states of a study whose report is still to come.
PENDING = (DisplayedState.RECEIVING, DisplayedState.SETTLED, DisplayedState.QUEUED, DisplayedState.RUNNING)


class Verdict(StrEnum):
    """Agreement of quoted cases and image on a finding; docs/grounding.md#verdicts defines them."""

    SUPPORTED = "supported"
    PICTURE_ONLY = "picture only"
    UNSUPPORTED = "unsupported"
    CONTRADICTED = "contradicted"
    NOT_MEASURABLE = "not measurable"


class Calibration(StrEnum):
    """Standing of the verdicts of a report: whether their error was bounded on a named set of cases."""

    UNCALIBRATED = "uncalibrated"
    CERTIFIED = "certified"
    SUSPENDED = "suspended"


class FeedbackKind(StrEnum):
    """Act of a reader on a report."""

    OPENED = "opened"
    ACCEPTED = "accepted"
    EDITED = "edited"
    REJECTED = "rejected"
    #: The reader's final text, of the whole report.
    FINAL = "final"
    #: The reader's own impression, given before the draft was shown.
    IMPRESSION = "impression"
