"""The request of a study in its headers: texts and codes, in the data set and in items of sequences, within limits."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from pydicom import DataElement, Dataset, Sequence, dcmwrite
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from db.studies import imaging_request
from dicom_listener.dicom import data_sets
from dicom_listener.dicom.elements import MAX_SEQUENCE_BYTES, MAX_VALUE_BYTES
from dicom_listener.dicom.statuses import Truncated
from dicom_listener.indexing import headers
from dicom_listener.indexing.headers import Tag, Texts

REASON, PROCEDURE = Tag.REASON_FOR_THE_REQUESTED_PROCEDURE, Tag.REQUESTED_PROCEDURE_DESCRIPTION


def made(**values: object) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


def code(meaning: str) -> Sequence:
    return Sequence([made(CodeValue="1", CodingSchemeDesignator="99X", CodeMeaning=meaning)])


def requested(*items: Dataset, undefined: bool = False, **values: object) -> Dataset:
    dataset = made(SpecificCharacterSet="ISO_IR 100", StudyInstanceUID="1.2.3", **values)
    dataset.RequestAttributesSequence = Sequence(items)
    dataset.RequestAttributesSequence.is_undefined_length = undefined
    for item in items:
        item.is_undefined_length_sequence_item = undefined
    return dataset


def encoded(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    buffer = io.BytesIO()
    implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
    dcmwrite(buffer, dataset, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    return buffer.getvalue()


def read(data: bytes, syntax: str = ExplicitVRLittleEndian, step: int = 4096) -> data_sets.Reader:
    reader = data_sets.reader(syntax, headers.WANTED, headers.INNER_PATHS)
    for offset in range(0, len(data), step):
        reader.feed(data[offset : offset + step])
    return reader


def texts(dataset: Dataset, syntax: str = ExplicitVRLittleEndian, step: int = 4096) -> tuple[str, str]:
    reader = read(encoded(dataset, syntax), syntax, step)
    reader.finish()
    found = Texts(reader.values, reader.inner_values, reader.present)
    return found.request(REASON), found.request(PROCEDURE)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("step", [1, 7, 4096])
def test_reason_and_procedure_are_read_from_texts_codes_and_items(syntax: str, step: int, *, undefined: bool) -> None:
    dataset = requested(
        made(ReasonForTheRequestedProcedure="Dyspnoea", RequestedProcedureCodeSequence=code("CT of chest")),
        made(RequestedProcedureDescription="Thorax", ReasonForRequestedProcedureCodeSequence=code("Pneumonia")),
        undefined=undefined,
        ReasonForTheRequestedProcedure="cough",
        ReasonForRequestedProcedureCodeSequence=code("Cough"),
    )

    assert texts(dataset, syntax, step) == ("cough; Dyspnoea; Pneumonia", "Thorax; CT of chest")


def test_codes_of_other_sequences_are_no_reason() -> None:
    dataset = requested(made(ScheduledProtocolCodeSequence=code("Protocol")), AnatomicRegionSequence=code("Chest"))

    assert texts(dataset) == ("", "")


def test_item_is_decoded_by_its_own_character_set() -> None:
    dataset = requested(made(SpecificCharacterSet="ISO_IR 192", ReasonForTheRequestedProcedure="Übelkeit"))
    greek = made(SpecificCharacterSet="ISO_IR 126", StudyInstanceUID="1.2.3", ReasonForTheRequestedProcedure="βήχας")

    assert (texts(dataset)[0], texts(greek)[0]) == ("Übelkeit", "βήχας")


@pytest.mark.parametrize("undefined", [False, True])
def test_each_item_is_decoded_by_its_own_character_set_or_that_of_what_holds_it(*, undefined: bool) -> None:
    nested = code("βήχας")
    nested[0].SpecificCharacterSet = "ISO_IR 126"
    cyrillic = made(SpecificCharacterSet="ISO_IR 144", ReasonForTheRequestedProcedure="кашель")
    cyrillic.RequestedProcedureCodeSequence = code("грудь")
    plain, coded = made(ReasonForTheRequestedProcedure="Übelkeit"), made()
    coded.ReasonForRequestedProcedureCodeSequence = nested
    dataset = requested(cyrillic, plain, coded, undefined=undefined)

    assert texts(dataset) == ("кашель; Übelkeit; βήχας", "грудь")


def test_text_beyond_the_limits_is_named_and_not_silently_lost() -> None:
    long = "x" * (MAX_VALUE_BYTES + 2)
    whole, inner = made(StudyInstanceUID="1.2.3"), made()
    # Not by name: pydicom would warn of the length.
    whole[REASON], inner[PROCEDURE] = DataElement(REASON, "UT", long), DataElement(PROCEDURE, "UT", long)
    heavy = requested(made(PixelData=bytes(MAX_SEQUENCE_BYTES)))
    heavy.RequestAttributesSequence[0]["PixelData"].VR = "OB"

    assert texts(whole) == (imaging_request.NOT_READ, "")
    assert texts(requested(inner)) == ("", imaging_request.NOT_READ)
    assert texts(heavy) == (imaging_request.NOT_READ, imaging_request.NOT_READ)


@pytest.mark.parametrize("undefined", [False, True])
def test_truncation_in_a_sequence_is_detected(*, undefined: bool) -> None:
    whole = encoded(requested(made(ReasonForTheRequestedProcedure="Dyspnoea"), undefined=undefined))
    start = whole.index(b"SQ")
    for end in range(start, len(whole)):
        with pytest.raises(Truncated):
            read(whole[:end]).finish()


def test_damaged_item_loses_its_text_only() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 24) + b"\x08\0\x05\0\xff\xff" + b"\xff" * 18
    nested = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) * 400
    for inside in (item, nested, struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) * 3):
        sequence = struct.pack("<HH2sHI", 0x0040, 0x0275, b"SQ", 0, len(inside)) + inside
        after = struct.pack("<HH2sH", 0x0040, 0x1002, b"LO", 4) + b"Pain"
        reader = read(encoded(made(StudyInstanceUID="1.2.3")) + sequence + after)
        reader.finish()

        assert reader.understood
        assert Texts(reader.values, reader.inner_values).request(REASON) == "Pain"


def test_many_items_are_cut_with_a_mark() -> None:
    dataset = requested(*(made(ReasonForTheRequestedProcedure=f"reason {number}") for number in range(40)))
    found = texts(dataset)[0]

    assert found.startswith("reason 0; reason 1; ")
    assert found.endswith("; ...")


def test_deflated_request_is_read() -> None:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    data = deflater.compress(encoded(requested(made(ReasonForTheRequestedProcedure="Pain")))) + deflater.flush()
    reader = read(data, DeflatedExplicitVRLittleEndian)

    assert Texts(reader.values, reader.inner_values).request(REASON) == "Pain"


def test_texts_of_a_study_are_merged_once_and_within_a_limit() -> None:
    assert imaging_request.merged("", "Cough", "cough ", "") == "Cough"
    assert imaging_request.merged("Cough; Fever", "fever", "Pain") == "Cough; Fever; Pain"
    assert imaging_request.merged(None, "") is None, "objects of an earlier release were not read"
    assert imaging_request.merged(None, "Pain") == "Pain"
    long = imaging_request.merged("", *(f"reason {number}" for number in range(200)))
    assert long is not None
    assert (len(long), long[-3:]) == (imaging_request.MAX_CHARACTERS, "...")
    assert imaging_request.merged(long, "another") == long
