from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from worker.images.decode.files import read
from worker.images.decode.header import _TAGS  # the tests replace values that pydicom refuses to write

if TYPE_CHECKING:
    from worker.images.decode.header import Header


@pytest.fixture
def written(store: Any) -> Any:
    """Header of an object whose elements hold the given bytes."""
    header = read(store(np.zeros((64, 64), np.uint8)).path)

    def write(**elements: bytes) -> Header:
        values = {_TAGS[keyword]: (b"DS", False, value) for keyword, value in elements.items()}
        return replace(header, values=header.values | values)

    return write


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (b"-1024,0", (-1024.0,)),
        (b"-1024,000 ", (-1024.0,)),
        (b"0,488", (0.488,)),
        (b"1,0E1", (10.0,)),
        (b",5", (0.5,)),
        (b"1.0E0 ", (1.0,)),
        (b"1E+3", (1000.0,)),
        (b"+1", (1.0,)),
        (b" - 1024 ", (-1024.0,)),
        (b"+ 1 . 5", (1.5,)),
        (b"0.97656250000000000000000000", (0.9765625,)),
        (b"40\0", (40.0,)),
        (b"0,5\\0,5", (0.5, 0.5)),
        (b"-125,500\\-125,500\\-1012,5", (-125.5, -125.5, -1012.5)),
    ],
)
def test_numbers_are_read_as_people_write_them(written: Any, text: bytes, numbers: tuple[float, ...]) -> None:
    header = written(WindowCenter=text)

    assert header.numbers("WindowCenter") == numbers
    assert not header.is_invalid("WindowCenter")


@pytest.mark.parametrize(
    "text",
    [b"nan", b"+INF", b"-inf", b"1e999", b"1_000", b"1,024", b"1 024", b"1.024,5", b"1,024.5", b"1,2,3", b"--1", b","],
)
def test_text_that_is_no_number_or_ambiguous_is_invalid(written: Any, text: bytes) -> None:
    header = written(WindowCenter=text)

    assert header.numbers("WindowCenter") == ()
    assert header.is_invalid("WindowCenter")


def test_ambiguous_comma_is_decimal_if_another_element_of_the_object_has_one(written: Any) -> None:
    header = written(RescaleSlope=b"1,000", RescaleIntercept=b"-1024,000")

    assert (header.number("RescaleSlope"), header.number("RescaleIntercept")) == (1.0, -1024.0)


def test_absent_and_blank_numbers_are_not_invalid(written: Any) -> None:
    assert not written().is_invalid("WindowCenter")
    assert not written(WindowCenter=b"  ").is_invalid("WindowCenter")


def test_number_is_read_by_the_vr_with_which_it_was_written(store: Any) -> None:
    header = read(store(np.zeros((64, 64), np.uint8)).path)
    written = {"RescaleSlope": (b"FD", struct.pack("<d", 0.5)), "Rows": (b"IS", b"64")}
    values = {_TAGS[keyword]: (vr, False, value) for keyword, (vr, value) in written.items()}

    header = replace(header, values=header.values | values)

    assert (header.number("RescaleSlope"), header.integer("Rows")) == (0.5, 64)
