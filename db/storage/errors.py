"""Errors of the object storage; their texts name it, and hold no credentials and no patient data."""

from __future__ import annotations

from db.errors import PrelimError


class StorageError(PrelimError):
    """Base of the errors of the object storage."""


class Unavailable(StorageError):
    """Raised when the object storage does not answer, refuses the request or fails: it may work later."""


class Refused(Unavailable):
    """Raised when the object storage works, and refuses a request: of this object, or of this account."""


class Missing(StorageError):
    """Raised when the object storage answers that it has no such object."""


class Damaged(StorageError):
    """Raised when an object is not the file that was stored: its digest differs."""
