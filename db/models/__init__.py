"""Tables, with the reason of each CHECK, index and ON DELETE.

Times are written by the database's clock (``clock_timestamp()``), never by a process's: leases and settle times
compare them, and the clocks of two machines differ. The one exception is ``received_at``, written by the listener,
which must not wait for the database.
"""

from db.models.access import (
    ApiKey,
    AuditChain,
    AuditRow,
    AuditSyslog,
    AuditSyslogSent,
    CursorSecret,
    DeletedStudy,
    IdempotentRequest,
    PageSession,
)
from db.models.answers import Answer, AnswerEvidence, Inquiry, SpecialistPrediction, SpecialistReport
from db.models.base import Base
from db.models.certificates import AnswerScaling, Certificate
from db.models.commitments import Commitment
from db.models.feedback import ReportFeedback, StudyEvent, StudyHold
from db.models.grounds import Citation, Finding, Omission, Sentence
from db.models.identity_decisions import IdentityDecision
from db.models.instances import FileDeletion, Instance, PatientErasure, Quarantined
from db.models.jobs import Job
from db.models.operations import Backup, Canary, LostGpu, Process, Total, TotalsUntil, TraceExport
from db.models.procedure_steps import ProcedureStep
from db.models.reference import ReferenceCase, ReferenceErasure, ReferenceSnapshot
from db.models.reports import Evidence, Report, ReportCheck, ReportImage, SpecialistDraft
from db.models.studies import Study

__all__ = [
    "Answer",
    "AnswerEvidence",
    "AnswerScaling",
    "ApiKey",
    "AuditChain",
    "AuditRow",
    "AuditSyslog",
    "AuditSyslogSent",
    "Backup",
    "Base",
    "Canary",
    "Certificate",
    "Citation",
    "Commitment",
    "CursorSecret",
    "DeletedStudy",
    "Evidence",
    "FileDeletion",
    "Finding",
    "IdempotentRequest",
    "IdentityDecision",
    "Inquiry",
    "Instance",
    "Job",
    "LostGpu",
    "Omission",
    "PageSession",
    "PatientErasure",
    "ProcedureStep",
    "Process",
    "Quarantined",
    "ReferenceCase",
    "ReferenceErasure",
    "ReferenceSnapshot",
    "Report",
    "ReportCheck",
    "ReportFeedback",
    "ReportImage",
    "Sentence",
    "SpecialistDraft",
    "SpecialistPrediction",
    "SpecialistReport",
    "Study",
    "StudyEvent",
    "StudyHold",
    "Total",
    "TotalsUntil",
    "TraceExport",
]
