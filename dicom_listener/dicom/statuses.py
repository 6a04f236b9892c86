"""Why an object is not taken: one cause, one DICOM status (PS3.4 B.2.3, PS3.7 C).

The sender sees the status and the first 64 characters of the text (0000,0902); so do the log and the counters.
"""

from __future__ import annotations

from typing import ClassVar

from db.errors import PrelimError

SUCCESS = 0x0000


class Refusal(PrelimError):
    """Base of the causes for which a C-STORE is answered with a failure; *status* goes to the sender."""

    status: ClassVar[int]


class OutOfResources(Refusal):
    """Raised when the disk cannot hold the object: full, read-only or broken."""

    status = 0xA700


class DataSetMismatch(Refusal):
    """Raised when the data set is not the object that the command announced."""

    status = 0xA900


class SOPClassNotSupported(Refusal):
    """Raised when the SOP class is not that of the presentation context it was sent in."""

    status = 0x0122


class MissingUID(Refusal):
    """Raised when an object does not say which SOP class, instance, study or series it is."""

    status = 0xC001


class MalformedUID(Refusal):
    """Raised when a UID is no UID: other characters than digits and dots, or longer than 64 (PS3.5 9.1)."""

    status = 0xC002


class Truncated(Refusal):
    """Raised when a data set ends before its own lengths say it does."""

    status = 0xC003


class TooComplex(Refusal):
    """Raised when a data set is nested deeper, or has more elements, than any real object."""

    status = 0xC004


class ExpandsTooFar(Refusal):
    """Raised when a deflated data set cannot be inflated, or grows beyond every real object."""

    status = 0xC005


class TooLarge(Refusal):
    """Raised when an object is larger than the site allows."""

    status = 0xA701


class NoSuchAction(Refusal):
    """Raised when an N-ACTION asks for something else than storage commitment (PS3.7 C.5.9)."""

    status = 0x0123


class NoSuchInstance(Refusal):
    """Raised when a request is about an instance that is not there (PS3.7 C.5.12)."""

    status = 0x0112


class DuplicateInstance(Refusal):
    """Raised when a procedure step is created that exists (PS3.7 C.5.6)."""

    status = 0x0111


class InvalidAttribute(Refusal):
    """Raised when an attribute has a value the request cannot have (PS3.7 C.5.11)."""

    status = 0x0106


class MissingAttribute(Refusal):
    """Raised when a request lacks what it is about (PS3.7 C.5.13)."""

    status = 0x0120


class NoLongerUpdatable(Refusal):
    """Raised when a procedure step is changed after its end (PS3.4 F.7.2.2.2)."""

    status = 0x0110


class UnrecognizedOperation(Refusal):
    """Raised when a command is asked that we do not serve (PS3.7 C.5.21)."""

    status = 0x0211
