"""Encode the result of a storage commitment request: the data set of an N-EVENT-REPORT (PS3.4 J.3.3.1.1)."""

import io
import threading
from dataclasses import dataclass

from pydicom import Dataset, dcmwrite
from pydicom.config import disable_value_validation

from db.studies.transfer_syntaxes import IMPLICIT_VR_LITTLE_ENDIAN

#: Event types (PS3.4 J.3.3.1.1.2).
ALL_COMMITTED, FAILURES_EXIST = 1, 2
#: pydicom switches validation off for the whole process and restores what it found: overlapping switches would stay.
_VALIDATION = threading.Lock()


@dataclass(frozen=True, slots=True)
class CommitmentResult:
    """Committed references as (SOP class UID, SOP instance UID); failed ones with their Failure Reason (0008,1197)."""

    transaction_uid: str
    committed: list[tuple[str, str]]
    failed: list[tuple[str, str, int]]

    @property
    def event_type(self) -> int:
        """Event Type ID: whether failures exist."""
        return FAILURES_EXIST if self.failed else ALL_COMMITTED

    def encode(self, transfer_syntax_uid: str) -> bytes:
        """Return the data set in Explicit or Implicit VR Little Endian; takes about 60 us for each reference."""
        # A requester may name objects by malformed UIDs: they are failed references.
        with _VALIDATION, disable_value_validation():
            dataset = Dataset()
            dataset.TransactionUID = self.transaction_uid
            if self.failed:
                dataset.FailedSOPSequence = [_reference(*failed) for failed in self.failed]
            if self.committed:
                dataset.ReferencedSOPSequence = [_reference(*committed) for committed in self.committed]
            encoded = io.BytesIO()
            implicit_vr = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
            dcmwrite(encoded, dataset, implicit_vr=implicit_vr, little_endian=True, enforce_file_format=False)
        return encoded.getvalue()


def _reference(sop_class_uid: str, sop_instance_uid: str, failure_reason: int | None = None) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = _encodable(sop_class_uid)
    reference.ReferencedSOPInstanceUID = _encodable(sop_instance_uid)
    if failure_reason is not None:
        reference.FailureReason = failure_reason
    return reference


def _encodable(uid: str) -> str:
    """Replace characters that the VR UI cannot encode."""
    return uid.encode("latin-1", "replace").decode("latin-1")
