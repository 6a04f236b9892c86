"""Errors as types, and the reasons why a study or a job ended without a report."""

from enum import StrEnum
from typing import Self


class CodeWithMeaning(StrEnum):
    """Base of stable codes; *meaning* explains each of them."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Self:
        """Take the code, which is stored or published, and its meaning, which is documented or shown."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


class Reason(CodeWithMeaning):
    """Code for a job, study, image or file that ended without a result."""

    # The queue and the life of a study.
    LEASE_EXPIRED = "lease_expired", "the worker died, froze or could not reach the database"
    NO_PROGRESS = "no_progress", "the attempt made no progress for the time of a lease, although its worker was alive"
    WORKER_LOST = "worker_lost", "the worker died during the last attempt"
    LATE_IMAGES = "late_images", "images arrived after the study was complete; the job of a newer revision replaces it"
    TOO_MANY_REVISIONS = "too_many_revisions", "images arrived late more often than `PRELIM_MAX_REVISIONS` allows"
    IDENTITY_CONFLICT = (
        "identity_conflict",
        "objects of different identities arrived under one Study Instance UID; held until a person decides",
    )
    IDENTITY_REFUSED = "identity_refused", "a person decided that objects of this identity are not part of the study"
    OPERATOR = "operator", "an operator cancelled or retried the job"
    UNEXPECTED = "unexpected", "an unexpected error; the worker's log shows its type and location"

    # The study as a whole.
    NO_IMAGES = "no_images", "the study contains no image that can be reported"
    MISSING_FILES = "missing_files", "stored files of the study are missing on disk"
    STORAGE_UNAVAILABLE = (
        "storage_unavailable",
        "the object storage that has images of the study does not answer; the job waits, and no attempt is counted",
    )
    DEMO_CHECKPOINT = "demo_checkpoint", "a demo checkpoint reports only studies sent to `PRELIM_DEMO_AE_TITLES`"

    STORE_ONLY = "store_only", "by a rule of `PRELIM_RULES` the study is only stored; `detail` has the reason"
    NO_REPORT_TASK = "no_report_task", "a rule of `PRELIM_RULES` gives the study other tasks than a report"

    # The model.
    CHECKPOINT_DAMAGED = "checkpoint_damaged", "a file of the checkpoint has changed on disk since the worker started"
    CHECK_FAILED = "check_failed", "a check of `PRELIM_BLOCKING_CHECKS` failed for the draft, which is not shown"
    EMPTY_REPORT = "empty_report", "the model returned no text"
    GPU_LOST = "gpu_lost", "the worker's GPU stopped computing; the worker exited, and another one repeats the job"
    ENGINE_STOPPED = "engine_stopped", "the worker's engine stopped before the report was finished"
    IMAGES_NOT_WRITTEN = "images_not_written", "the images of the report could not be written to disk"
    INVALID_QUESTION = "invalid_question", "a question or its options are empty, too long, too many or equal"
    MODEL_ERROR = "model_error", "the model failed, or returned non-finite numbers"
    NO_DEADLINE = "no_deadline", "a request to the model has an invalid deadline"
    NOT_STORABLE = "not_storable", "the report contains text or a number that the database cannot store"
    NOTHING_ASKED = "nothing_asked", "a request to the model allows no new token"
    OPTIONS_NOT_SCORED = "options_not_scored", "the options of a question were not scored within its time limit"
    PROMPT_FAILED = "prompt_failed", "the prompt could not be built"
    PROMPT_TOO_LONG = "prompt_too_long", "images, quoted cases and report exceed `PRELIM_CONTEXT_TOKENS`"
    ERASED_CASE = (
        "erased_case",
        "the reference case, its patient or its images were erased and must not be indexed again",
    )
    OWN_DRAFT = "own_draft", "the report of the reference case is a draft of this system"
    REFERENCE_INDEX = "reference_index", "the reference index could not be read"

    # One image: the reason of a study if no image is left.
    BETTER_IMAGES = "better_images", "the study contains better images, such as originals beside derived images"
    DUPLICATE = "duplicate", "the image is a duplicate of another one of the study"
    FEW_IMAGES = "few_images", "derived images were used because the study contains too few primary images"
    LABEL = "label", "the image is the label of a slide, which can identify the patient"
    MALFORMED = "malformed", "sizes, bits, samples, tables or codestream are inconsistent"
    MISSING = "missing", "the stored file is missing on disk"
    NO_PIXELS = "no_pixels", "the object contains no pixel data"
    UNSUPPORTED_PIXELS = "unsupported_pixels", "the pixels are floating-point numbers, which are not supported"
    NO_TRANSFER_SYNTAX = "no_transfer_syntax", "the Transfer Syntax UID is missing"
    NOT_AN_IMAGE = "not_an_image", "the object is not an image that can be reported"
    NOT_DICOM = "not_dicom", "the file is not a DICOM file"
    TOO_LARGE = "too_large", "the image or its file exceeds a limit"
    TRUNCATED = "truncated", "the header, pixel data or codestream is truncated"
    UNDECODABLE = "undecodable", "the decoder rejects the pixel data"
    UNKNOWN_PHOTOMETRIC = "unknown_photometric", "the Photometric Interpretation is not supported"
    UNKNOWN_TRANSFER_SYNTAX = "unknown_transfer_syntax", "the transfer syntax is private or unknown"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax", "no decoder for the transfer syntax is installed"
    VIDEO = "video", "the object is a video"

    # A file in quarantine.
    CONFLICTING_SOP_INSTANCE = "conflicting_sop_instance", "another object has this SOP Instance UID; the first is kept"
    REPLACED = "replaced", "an operator replaced the object by one with a corrected header and the same pixels"
    FILE_ERROR = "file_error", "the disk returned an error for the file"
    UNREADABLE = "unreadable", "the file cannot be indexed"


class PrelimError(Exception):
    """Base of Prelim's own errors; the text is for an operator and contains no patient data."""


class ConfigurationError(PrelimError):
    """Raised when a setting, or a file or service it names, cannot be used; the text states the remedy."""


class Outcome(PrelimError):
    """Base of the ways an attempt ends without a report; *detail* is a sentence without patient data."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")


class NotReportable(Outcome):
    """Raised when a study can never become a report: a lasting property of its images, not an error of Prelim."""


class TransientFailure(Outcome):
    """Raised when an attempt failed for a reason that may pass: the job is attempted again later."""


class PermanentFailure(Outcome):
    """Raised when another attempt would fail the same way: the job ends as failed."""


class StaleFence(PrelimError):
    """Raised when a worker writes for a job it no longer owns: it must drop its result."""


class ImageDamaged(PrelimError):
    """Raised when a stored image of a report is missing, cannot be read or is another one."""


class UnknownStudy(PrelimError):
    """Raised when no study, or more than one, matches the name an operator gave."""


class NotPossible(PrelimError):
    """Raised when a request does not fit the state of the study."""


class InvalidPrediction(PrelimError):
    """Raised when a prediction of a specialist model cannot be stored; the error quotes no value."""


class InvalidInquiry(PrelimError):
    """Raised when the text of a question or of an option cannot be asked; the error does not quote it."""
