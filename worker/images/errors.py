"""Error of an object or frame that cannot become an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from db.errors import PrelimError

if TYPE_CHECKING:
    from db.errors import Reason


class Unreadable(PrelimError):
    """Raised when one object or frame cannot become an image; the study may still have others.

    *detail* is a sentence without patient data.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(f"{reason}: {detail}")
