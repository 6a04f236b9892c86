"""Errors that end a request, and the body of their responses."""

from pydantic import BaseModel, ConfigDict, Field, computed_field
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db.errors import CodeWithMeaning, ConfigurationError, Reason
from db.states import DisplayedState

#: Errors of a database that is unreachable or not configured.
UNREACHABLE = (OperationalError, PoolTimeout, ConfigurationError)


class ErrorCode(CodeWithMeaning):
    """Codes of problems with their meaning; other HTTP errors have their reason phrase, such as `bad_request`."""

    UNAUTHORIZED = "unauthorized", "The request has no valid key, token or session."
    FORBIDDEN = "forbidden", "The caller lacks the scope of the route, or the form comes from another site."
    NOT_FOUND = "not_found", "The resource does not exist, or the caller may not see it."
    METHOD_NOT_ALLOWED = "method_not_allowed", "The path does not have this method."
    NOT_ACCEPTABLE = "not_acceptable", "The response has no media type that the header Accept of the request permits."
    NO_REPORT_YET = "no_report_yet", "The report of the study is still to be written."
    NO_REPORT = "no_report", "The study ended without a report, or is held."
    NOT_POSSIBLE = "not_possible", "The state of the study does not permit the request."
    INVALID_REQUEST = "invalid_request", "A parameter or the body is invalid."
    PRECONDITION_FAILED = "precondition_failed", "The report is not the one that the caller read."
    PRECONDITION_REQUIRED = "precondition_required", "The request needs If-Match with an ETag."
    TOO_MANY_REQUESTS = "too_many_requests", "The caller or its address has sent too many requests in a minute."
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type", "The body must be application/json."
    BODY_TOO_LARGE = "body_too_large", "The body is too large."
    IDEMPOTENCY_KEY_IN_USE = "idempotency_key_in_use", "A request with this Idempotency-Key is being answered."
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused", "The Idempotency-Key belongs to another request."
    IMAGE_DAMAGED = "image_damaged", "The stored image is missing, unreadable or not that of the report."
    SEALED = "sealed", "The reader has not yet looked at the study, as the setting `drafts` requires before a draft."
    NO_PICTURE = "no_picture", "The stored frame cannot be shown; `reason` says why."
    INTERNAL_ERROR = "internal_error", "An unexpected error; the log of the server has its place."
    UNAVAILABLE = (
        "unavailable",
        "The database, the identity provider or the object storage cannot be reached, or all decoders are busy.",
    )


#: Media type of problems (RFC 9457).
PROBLEM_JSON = "application/problem+json"


class Problem(BaseModel):
    """Error of a request (RFC 9457): its cause and its remedy."""

    model_config = ConfigDict(frozen=True)

    status: int = Field(default=0, description="HTTP status.")
    error: str = Field(description="Old name of `code`.", examples=[*ErrorCode], json_schema_extra={"deprecated": True})
    message: str = Field(description="Old name of `detail`.", json_schema_extra={"deprecated": True})
    hint: str = Field(description="Remedy.")
    state: DisplayedState | None = Field(default=None, description="State of the study, if that is the cause.")
    reason: str | None = Field(
        default=None, description="Stable code: why there is no report or picture.", examples=[*Reason]
    )
    reason_detail: str | None = Field(
        default=None, description="Sentence about the reason; in earlier releases it was named `detail`."
    )

    @computed_field(description="Page about this kind of problem.")
    def type(self) -> str:
        """Reference of the page."""
        return f"/docs/problems/{self.error}"

    @computed_field(description="Kind of problem, in words.")
    def title(self) -> str:
        """Title of a code, or the reason phrase."""
        known = self.error in list(ErrorCode)
        return ErrorCode[self.error.upper()].meaning if known else self.error.replace("_", " ").capitalize()

    @computed_field(description="Stable code, as in docs/api.md.")
    def code(self) -> str:
        """Code."""
        return self.error

    @computed_field(description="Cause of this problem, for display.")
    def detail(self) -> str:
        """Cause."""
        return self.message


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
