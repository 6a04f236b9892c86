from __future__ import annotations

import pytest

from dicom_listener.indexing.headers import Texts

SERIES_NUMBER = 0x0020_0011


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"3 ", 3),
        (b"+3", 3),
        (b" -3", -3),
        (b"3.0", 3),
        (b"3,0", 3),
        (b"1E1", 10),
        (b"3.5", None),
        (b"1,024", None),
        (b"nan", None),
        (b"1e999", None),
        (b"9999999999", None),
        (b"", None),
    ],
)
def test_integers_are_read_as_people_write_them(text: bytes, number: int | None) -> None:
    assert Texts({SERIES_NUMBER: text}).number(SERIES_NUMBER) == number
