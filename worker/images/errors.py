"""Why an image cannot be had."""

from __future__ import annotations

from db.errors import PrelimError


class Unreadable(PrelimError):
    """Raised when one object or frame cannot become an image; the study may still have others.

    *code* is short and stable, *detail* says it to a person; neither holds anything from the patient's data.
    """

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")
