"""The header of a stored file."""

from __future__ import annotations

import datetime as dt
import io

import pytest
from pydicom import dcmread

from dicom_listener.spool import file_meta
from dicom_listener.spool.file_meta import Reception

RECEPTION = Reception(
    operation=file_meta.C_STORE,
    association_id="a" * 32,
    calling_ae_title="CT_1",
    called_ae_title="PRELIM",
    peer="10.1.2.3",
    priority=1,
    received_at=dt.datetime(2026, 1, 2, 3, 4, 5, 6, dt.UTC),
)
HEADER = file_meta.encode("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1", RECEPTION)


def test_header_round_trip() -> None:
    meta = file_meta.decode(HEADER + b"data set")
    assert (meta.sop_class_uid, meta.sop_instance_uid) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    assert meta.transfer_syntax_uid == "1.2.840.10008.1.2.1"
    assert meta.reception == RECEPTION
    assert meta.length == len(HEADER)


def test_pydicom_reads_the_header() -> None:
    meta = dcmread(io.BytesIO(HEADER)).file_meta
    assert meta.FileMetaInformationVersion == b"\x00\x01"
    assert meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert meta.SourceApplicationEntityTitle == "CT_1"
    assert meta.ReceivingApplicationEntityTitle == "PRELIM"
    assert meta.ImplementationClassUID == file_meta.IMPLEMENTATION_CLASS_UID
    assert meta.FileMetaInformationGroupLength == len(HEADER) - 144


def test_seal_is_the_end_of_the_header() -> None:
    sealed = HEADER[: -file_meta.SEAL.size] + file_meta.seal(1234, 0xDEADBEEF)
    assert file_meta.decode(sealed).seal == file_meta.seal(1234, 0xDEADBEEF)
    assert file_meta.decode(sealed).reception == RECEPTION


@pytest.mark.parametrize("length", [0, 10, 132, 143, 200, len(HEADER) - 1])
def test_truncated_header_is_rejected(length: int) -> None:
    with pytest.raises(ValueError, match="File Meta"):
        file_meta.decode(HEADER[:length])


def test_file_of_another_program_is_rejected() -> None:
    foreign = HEADER.replace(b'"priority"', b'"urgency!"')
    with pytest.raises(ValueError, match="Private Information"):
        file_meta.decode(foreign)
