"""Causes of refusal, each with its DICOM status (PS3.4 B.2.3, PS3.7 C): one cause, one status.

Those of A700 and above are statuses of storage; for other services, the handlers replace them by those of PS3.7 C
(dicom_listener.receive.n_services).

The sender gets the status and the first 64 characters of the text as Error Comment (0000,0902); log and counters get
the text. The docstrings below are rows of the conformance statement.
"""

from typing import ClassVar

from db.errors import PrelimError

SUCCESS = 0x0000


class Refusal(PrelimError):
    """Base of the causes for which a request is answered with a failure; *status* goes to the sender."""

    status: ClassVar[int]


class OutOfResources(Refusal):
    """Raised when the disk cannot store the object, only urgent objects are received, or a quota is used up."""

    status = 0xA700


class TooLarge(Refusal):
    """Raised when a data set is larger than the limit of its service."""

    status = 0xA701


class DataSetMismatch(Refusal):
    """Raised when a UID in the data set differs from the one in the command."""

    status = 0xA900


class MissingUID(Refusal):
    """Raised when a SOP Class, SOP Instance, Study or Series Instance UID is missing."""

    status = 0xC001


class MalformedUID(Refusal):
    """Raised when a UID is not 1 to 64 digits and dots (for a Series Instance UID: 1 to 128 printable characters)."""

    status = 0xC002


class Truncated(Refusal):
    """Raised when a data set is shorter than its element lengths."""

    status = 0xC003


class TooComplex(Refusal):
    """Raised when a data set exceeds the limit of nesting or of elements."""

    status = 0xC004


class ExpandsTooFar(Refusal):
    """Raised when a deflated data set cannot be inflated, or exceeds the limit of inflated bytes."""

    status = 0xC005


class MalformedHeader(Refusal):
    """Raised when a UID is not found because an element before it cannot be parsed."""

    status = 0xC006


class NoLongerUpdatable(Refusal):
    """Raised when a procedure step is updated after its end (PS3.4 F.7.2.2.2)."""

    status = 0x0110


class ProcessingFailure(Refusal):
    """Raised when the data set of a request other than C-STORE cannot be read (PS3.7 C.5)."""

    status = 0x0110


class DuplicateInstance(Refusal):
    """Raised when a procedure step is created that already exists (PS3.7 C.5.6)."""

    status = 0x0111


class NoSuchInstance(Refusal):
    """Raised when the requested SOP instance does not exist (PS3.7 C.5.12)."""

    status = 0x0112


class MissingAttribute(Refusal):
    """Raised when a request lacks a required attribute (PS3.7 C.5.13)."""

    status = 0x0120


class InvalidArgument(Refusal):
    """Raised when an N-ACTION has no or no valid value of a required attribute (PS3.7 C.5)."""

    status = 0x0115


class InvalidInstance(Refusal):
    """Raised when the command of a procedure step has no or no valid SOP Instance UID (PS3.7 C.5)."""

    status = 0x0117


class ResourceLimitation(Refusal):
    """Raised when the disk cannot store a request other than C-STORE, or it is too large or complex (PS3.7 C.5)."""

    status = 0x0213


class InvalidAttribute(Refusal):
    """Raised when an attribute has a value that the request does not allow (PS3.7 C.5.11)."""

    status = 0x0106


class SOPClassNotSupported(Refusal):
    """Raised when the SOP class differs from that of its presentation context."""

    status = 0x0122


class NoSuchAction(Refusal):
    """Raised when an N-ACTION requests an action other than storage commitment (PS3.7 C.5.9)."""

    status = 0x0123


class UnrecognizedOperation(Refusal):
    """Raised when a command belongs to no supported service (PS3.7 C.5.21)."""

    status = 0x0211
