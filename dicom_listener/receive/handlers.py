"""Interface of request handlers, and the two that store nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from dicom_listener.dicom.statuses import SUCCESS, UnrecognizedOperation

if TYPE_CHECKING:
    from dicom_listener.dicom.statuses import Refusal


class RequestHandler(Protocol):
    """Handler of one request: `write` for each fragment of its data set, then `finish`; or `discard` at any time."""

    refusal: Refusal | None
    #: The instance of the response, if the request has none.
    sop_instance_uid: str

    def write(self, fragment: memoryview, *, last: bool) -> None: ...  # noqa: D102 - described in the class
    def finish(self) -> int: ...  # noqa: D102 - described in the class
    def discard(self) -> None: ...  # noqa: D102 - described in the class


class NullHandler:
    """Handler of C-ECHO (PS3.4 A) and of responses: ignores a data set and answers with success."""

    refusal: Refusal | None = None
    sop_instance_uid = ""

    def write(self, fragment: memoryview, *, last: bool) -> None:
        """Ignore *fragment*."""

    def finish(self) -> int:
        """Return success."""
        return SUCCESS

    def discard(self) -> None:
        """Do nothing."""


class UnrecognizedHandler(NullHandler):
    """Handler of requests to services that are not supported."""

    refusal: Refusal | None = UnrecognizedOperation("operation not supported")

    def finish(self) -> int:
        """Return the status of an unrecognized operation."""
        return UnrecognizedOperation.status
