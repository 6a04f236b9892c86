"""Text in every character set of the standard, and in the ones that equipment declares wrongly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_listener.dicom.character_sets import UNDECODABLE, decode

ESC = b"\x1b"
U = UNDECODABLE

#: Examples of PS3.5 annexes H, I, J and K: declared sets, bytes, text.
EXAMPLES = {
    "H.3.1": (
        rb"\ISO 2022 IR 87",
        b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ),
    "H.3.2": (
        rb"ISO 2022 IR 13\ISO 2022 IR 87",
        b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
        "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    ),
    "I.2": (
        rb"\ISO 2022 IR 149",
        b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        "Hong^Gildong=洪^吉洞=홍^길동",
    ),
    "J.1": (b"ISO_IR 192", "Wang^XiaoDong=王^小東=".encode(), "Wang^XiaoDong=王^小東="),
    "J.3": (b"GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab=", "Wang^XiaoDong=王^小东="),
    "K.2": (
        rb"\ISO 2022 IR 58",
        b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",
        "Zhang^XiaoDong=张^小东=",
    ),
    "Latin, Cyrillic, Greek, Arabic, Hebrew, Thai": (
        b"ISO 2022 IR 100\\ISO 2022 IR 144\\ISO 2022 IR 126\\ISO 2022 IR 127\\ISO 2022 IR 138\\ISO 2022 IR 166",
        b"Buc^J\xe9r\xf4me=\x1b-L\xbb\xee^\x1b-F\xc4=\x1b-G\xe2\x1b-H\xf9\x1b-T\xa1",
        "Buc^Jérôme=Лю^Δ=قשก",
    ),
    "supplementary kanji": (rb"\ISO 2022 IR 159", b"A=\x1b$(D0!\x1b(B^B", "A=丂^B"),
    "kanji that contain the bytes of delimiters": (
        rb"\ISO 2022 IR 87",
        b"Shimoda^Shuu=\x1b$B2<ED\x1b(B^\x1b$B=8=\\\x1b(B",
        "Shimoda^Shuu=下田^集旬",
    ),
    "a delimiter ends a code extension": (
        rb"ISO 2022 IR 100\ISO 2022 IR 149",
        b"\xe7^\x1b$)C\xa4\xba^\xe7",
        "ç^ㅊ^ç",
    ),
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_standard_are_decoded(example: str) -> None:
    declared, value, text = EXAMPLES[example]

    assert decode(value, declared, person_name=True) == text


@pytest.mark.parametrize(
    "declared", ["ISO_IR 192", "ISO IR 192", "ISO-IR 192", "iso_ir_192", "ISO_IR192", "UTF-8", "utf8", " ISO_IR 192\0"]
)
def test_utf8_is_decoded_under_its_wrong_names(declared: str) -> None:
    assert decode("Müller^Zoë=王".encode(), declared.encode()) == "Müller^Zoë=王"


@pytest.mark.parametrize(
    "declared",
    [
        "ISO_IR 100",
        "ISO-IR 100",
        "ISO_IR_100",
        "iso_ir 100",
        "ISO 2022 IR 100",
        "ISO2022IR100",
        r"ISO_IR 100\ISO_IR 192",
    ],
)
def test_latin_1_is_decoded_under_its_wrong_names(declared: str) -> None:
    assert decode(b"M\xfcller^Zo\xeb", declared.encode()) == "Müller^Zoë"


@pytest.mark.parametrize("declared", ["", "ISO_IR 6", "ISO_IR 100", "ISO 2022 IR 6", "NO_SUCH_SET", r"\ISO_IR 192"])
def test_utf8_that_is_declared_as_another_set_is_recognized(declared: str) -> None:
    assert decode("Müller^Zoë".encode(), declared.encode(), person_name=True) == "Müller^Zoë"


@pytest.mark.parametrize("declared", ["ISO_IR 149", "ISO 2022 IR 149", r"\ISO 2022 IR 149"])
def test_korean_without_escapes_is_decoded(declared: str) -> None:
    assert decode("홍^길동".encode("euc_kr"), declared.encode(), person_name=True) == "홍^길동"
    assert decode("홍".encode("euc_kr"), declared.encode(), person_name=True) == "홍"
    assert decode("뷁A".encode("cp949"), declared.encode()) == "뷁A"


@pytest.mark.parametrize("declared", ["GBK", "GB18030", "gb2312", r"GB18030\ISO_IR 192", r"\GB18030"])
def test_chinese_without_escapes_is_decoded(declared: str) -> None:
    assert decode("王^小东".encode("gbk"), declared.encode(), person_name=True) == "王^小东"


@pytest.mark.parametrize("delimiter", [b"^", b"="])
def test_set_is_kept_if_the_escape_after_a_delimiter_is_missing(delimiter: bytes) -> None:
    value = ESC + b"$)C\xc8\xab" + delimiter + b"\xb1\xe6\xb5\xbf"

    assert decode(value, rb"\ISO 2022 IR 149\ISO 2022 IR 58", person_name=True) == f"홍{delimiter.decode()}길동"


def test_escapes_in_texts_are_decoded_and_lines_reset_them() -> None:
    declared = rb"ISO 2022 IR 100\ISO 2022 IR 149"

    assert decode(ESC + b"$)C\xb1\xe6 a^b \xb5\xbf\\\xe7", declared) == "길 a^b 동\\ç"
    assert decode(ESC + b"$)C\xb1\xe6\r\n\xe7", declared) == "길ç"
    assert decode(ESC + b"$BB@O:" + ESC + b"(B CT", rb"\ISO 2022 IR 87") == "太郎 CT"


@pytest.mark.parametrize(
    ("value", "declared", "text"),
    [
        (b"M\xfcller", b"", f"M{U}ller"),
        (b"M\xfcller", b"ISO_IR 192", f"M{U}ller"),
        (b"M\xfcller", b"NO_SUCH_SET", f"M{U}ller"),
        (ESC + b"$)C\xc8", rb"\ISO 2022 IR 149", U),
        (ESC + b"$)A\xd5A", rb"\ISO 2022 IR 58", f"{U}A"),
        (ESC + b"$)C\xc8^A", rb"\ISO 2022 IR 149", f"{U}^A"),
        (ESC + b"%Gabc", rb"\ISO 2022 IR 87", f"{U}{U}{U}{U}"),
        (ESC + b"$-Qab" + ESC + b"(BC", rb"\ISO 2022 IR 87", f"{U}abC"),
        (b"A" + ESC, rb"\ISO 2022 IR 87", f"A{U}"),
        (b"\xff\xfe", b"ISO_IR 13", U + U),
        (b"O\x92Neill", b"ISO_IR 100", f"O{U}Neill"),
        ("张^志宏".encode("gbk"), b"ISO_IR 100", f"ÕÅ^Ö{U}ºê"),
    ],
)
def test_undecodable_bytes_are_visible(value: bytes, declared: bytes, text: str) -> None:
    assert decode(value, declared, person_name=True) == text


def test_names_in_latin_1_keep_their_letters() -> None:
    name = "Garc\u00eda^M\u00aa=O\u00b4Neill=Col\u00b7lell"

    assert decode(name.encode("latin-1"), b"ISO_IR 100", person_name=True) == name


def test_control_characters_are_removed() -> None:
    assert decode(b" A\0B\x07\r\nC\x7f ", b"") == "ABC"
    assert decode("A\u202eB\u2028C\ufeff".encode(), b"ISO_IR 192") == "ABC"


@given(
    value=st.binary(max_size=60),
    declared=st.sampled_from([d for d, _, _ in EXAMPLES.values()] + [b"", b"ISO_IR 100", b"GBK", b"\xff\\", b"\\\\"]),
    person_name=st.booleans(),
)
def test_any_bytes_become_a_line_without_controls(value: bytes, declared: bytes, person_name: bool) -> None:
    text = decode(value, declared, person_name=person_name)

    assert all(character >= " " and not "\x7f" <= character < "\xa0" for character in text)
    assert text.encode().decode() == text
