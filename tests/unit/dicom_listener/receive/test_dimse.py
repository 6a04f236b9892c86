"""Command sets and the PDUs they travel in."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filereader import read_dataset

from dicom_listener.receive import dimse
from dicom_listener.receive.dimse import Command
from dicom_listener.receive.pdus import Abort, pdvs

NUMBERS = st.integers(0, 0xFFFF)
UIDS = st.from_regex(r"[0-9]{1,8}(\.[0-9]{1,8}){0,5}", fullmatch=True)


def request(**values: int | str) -> Command:
    named = {"field": dimse.C_STORE_RQ, "message": 7, "data_set": 1, **values}
    return Command(
        dimse.encode(
            {
                dimse.COMMAND_FIELD: named["field"],
                dimse.MESSAGE_ID: named["message"],
                dimse.COMMAND_DATA_SET_TYPE: named["data_set"],
                dimse.AFFECTED_SOP_CLASS_UID: named.get("sop_class", "1.2"),
                dimse.AFFECTED_SOP_INSTANCE_UID: named.get("instance", "1.2.3"),
            }
        )
    )


@given(field=NUMBERS, message=NUMBERS, data_set=NUMBERS, uid=UIDS)
def test_command_set_round_trip(field: int, message: int, data_set: int, uid: str) -> None:
    command = request(field=field, message=message, data_set=data_set, instance=uid)
    assert (command.field, command.number(dimse.MESSAGE_ID)) == (field, message)
    assert command.text(dimse.AFFECTED_SOP_INSTANCE_UID) == uid
    assert command.has_data_set == (data_set != 0x0101)


def test_pydicom_reads_a_response() -> None:
    encoded = dimse.response(request(), 0xA900, "x" * 100)
    dataset = read_dataset(io.BytesIO(encoded), is_implicit_VR=True, is_little_endian=True)
    assert dataset.CommandGroupLength == len(encoded) - 12
    assert (dataset.CommandField, dataset.MessageIDBeingRespondedTo, dataset.Status) == (0x8001, 7, 0xA900)
    assert (dataset.AffectedSOPClassUID, dataset.AffectedSOPInstanceUID) == ("1.2", "1.2.3")
    assert dataset.ErrorComment == "x" * 64
    assert dataset.CommandDataSetType == 0x0101


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_set_or_an_abort(encoded: bytes) -> None:
    try:
        command = Command(encoded)
    except Abort:
        return
    assert command.text(dimse.AFFECTED_SOP_CLASS_UID).encode("latin-1") in encoded


def test_command_without_message_id_is_aborted() -> None:
    values: dict[int, int | str] = {dimse.COMMAND_FIELD: dimse.C_ECHO_RQ, dimse.COMMAND_DATA_SET_TYPE: 0x0101}
    with pytest.raises(Abort, match="0110"):
        dimse.response(Command(dimse.encode(values)), 0)


@pytest.mark.parametrize("missing", [dimse.COMMAND_FIELD, dimse.COMMAND_DATA_SET_TYPE])
def test_command_without_a_field_that_every_one_has_is_aborted(missing: int) -> None:
    values: dict[int, int | str] = {dimse.COMMAND_FIELD: dimse.C_ECHO_RQ, dimse.COMMAND_DATA_SET_TYPE: 0x0101}
    del values[missing]
    with pytest.raises(Abort, match=f"{missing:04X}"):
        Command(dimse.encode(values))


@given(encoded=st.binary(max_size=500), maximum=st.integers(7, 100))
def test_fragments_fit_the_maximum_pdu_length_and_join_to_the_original(encoded: bytes, maximum: int) -> None:
    contents = list(dimse.fragments(3, encoded, command=True, maximum=maximum))
    values = [value for content in contents for value in pdvs(memoryview(content))]
    assert all(len(content) <= maximum for content in contents)
    assert b"".join(fragment for _, _, fragment in values) == encoded
    assert [control for _, control, _ in values] == [1] * (len(values) - 1) + [3]


@given(st.binary(max_size=100))
def test_any_bytes_are_pdvs_or_an_abort(content: bytes) -> None:
    try:
        values = list(pdvs(memoryview(content)))
    except Abort:
        return
    assert sum(len(fragment) + 6 for _, _, fragment in values) == len(content)


def test_pdv_longer_than_its_pdu_is_aborted() -> None:
    with pytest.raises(Abort):
        list(pdvs(memoryview(struct.pack(">IBB", 100, 1, 3))))
