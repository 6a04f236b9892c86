"""Errors that end a request, and the body of their responses."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db.errors import ConfigurationError, Reason
from db.states import DisplayedState

#: Errors of a database that is unreachable or not configured.
UNREACHABLE = (OperationalError, PoolTimeout, ConfigurationError)


class ErrorCode(StrEnum):
    """Codes of `Problem.error`; other HTTP errors have their reason phrase, such as `method_not_allowed`."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    NO_REPORT_YET = "no_report_yet"
    NO_REPORT = "no_report"
    NOT_POSSIBLE = "not_possible"
    INVALID_REQUEST = "invalid_request"
    PRECONDITION_FAILED = "precondition_failed"
    PRECONDITION_REQUIRED = "precondition_required"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    BODY_TOO_LARGE = "body_too_large"
    IDEMPOTENCY_KEY_IN_USE = "idempotency_key_in_use"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    IMAGE_DAMAGED = "image_damaged"
    INTERNAL_ERROR = "internal_error"
    UNAVAILABLE = "unavailable"


class Problem(BaseModel):
    """Error of a request: its cause and its remedy."""

    model_config = ConfigDict(frozen=True)

    error: str = Field(description="Stable code, as in docs/api.md.", examples=[*ErrorCode])
    message: str
    hint: str
    state: DisplayedState | None = Field(default=None, description="State of the study, if that is the cause.")
    reason: str | None = Field(
        default=None, description="Stable code: why the study has no report.", examples=[*Reason]
    )
    reason_detail: str | None = Field(
        default=None, description="Sentence about the reason; in earlier releases it was named `detail`."
    )


class ApiError(Exception):
    """Raised when a request cannot be fulfilled; *problem* is the body of the response."""

    def __init__(self, status: int, problem: Problem, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.problem = problem
        self.headers = headers
        super().__init__(problem.error)


class Unauthorized(ApiError):
    """Raised when a request has no API key, or an unknown or revoked one."""

    def __init__(self, message: str) -> None:
        hint = "send the header `Authorization: Bearer KEY`; an operator creates keys"
        problem = Problem(error=ErrorCode.UNAUTHORIZED, message=message, hint=hint)
        super().__init__(401, problem, {"WWW-Authenticate": "Bearer"})


class Forbidden(ApiError):
    """Raised when the key or the origin of a request does not permit it."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(403, Problem(error=ErrorCode.FORBIDDEN, message=message, hint=hint))


class NotFound(ApiError):
    """Raised when the requested resource does not exist."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(404, Problem(error=ErrorCode.NOT_FOUND, message=message, hint=hint))
