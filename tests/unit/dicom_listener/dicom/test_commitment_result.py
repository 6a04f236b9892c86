"""The data set of a storage commitment result."""

from __future__ import annotations

import io

import pytest
from pydicom.filereader import read_dataset

from db.studies.transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_listener.dicom.commitment_result import ALL_COMMITTED, FAILURES_EXIST, CommitmentResult


@pytest.mark.parametrize("syntax", [EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN])
def test_result_has_committed_and_failed_references(syntax: str) -> None:
    result = CommitmentResult("1.2.3", committed=[("1.2", "1.2.4")], failed=[("1.2", "1.2.5", 0x0112)])
    encoded = io.BytesIO(result.encode(syntax))
    dataset = read_dataset(encoded, syntax == IMPLICIT_VR_LITTLE_ENDIAN, is_little_endian=True)

    assert result.event_type == FAILURES_EXIST
    assert dataset.TransactionUID == "1.2.3"
    [committed], [failed] = dataset.ReferencedSOPSequence, dataset.FailedSOPSequence
    assert (committed.ReferencedSOPClassUID, committed.ReferencedSOPInstanceUID) == ("1.2", "1.2.4")
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2.5", 0x0112)


def test_result_without_failures_has_no_failed_sequence() -> None:
    result = CommitmentResult("1.2.3", committed=[("1.2", "1.2.4")], failed=[])
    dataset = read_dataset(
        io.BytesIO(result.encode(IMPLICIT_VR_LITTLE_ENDIAN)), is_implicit_VR=True, is_little_endian=True
    )
    assert result.event_type == ALL_COMMITTED
    assert "FailedSOPSequence" not in dataset


@pytest.mark.parametrize("uid", ["not a UID", "1." + "2" * 63, "", "M\xfcller", "\u4e2d"])
def test_malformed_uid_of_a_requester_is_encoded(uid: str) -> None:
    result = CommitmentResult("1.2.3", committed=[], failed=[(uid, uid, 0x0112)])
    assert result.encode(EXPLICIT_VR_LITTLE_ENDIAN)
