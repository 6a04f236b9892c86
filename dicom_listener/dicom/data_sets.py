"""Read and check the identity of an encoded data set while it streams past."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Protocol

from db.limits import MAX_INFLATED_BYTES
from db.studies.transfer_syntaxes import DEFLATED, EXPLICIT_VR_BIG_ENDIAN
from dicom_listener.dicom.elements import ElementReader, InnerValue
from dicom_listener.dicom.statuses import (
    DataSetMismatch,
    ExpandsTooFar,
    MalformedHeader,
    MalformedUID,
    MissingUID,
    Truncated,
)

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

SOP_CLASS_UID = 0x00080016
SOP_INSTANCE_UID = 0x00080018
STUDY_INSTANCE_UID = 0x0020000D
SERIES_INSTANCE_UID = 0x0020000E
IDENTITY = {
    SOP_CLASS_UID: "SOP Class UID",
    SOP_INSTANCE_UID: "SOP Instance UID",
    STUDY_INSTANCE_UID: "Study Instance UID",
    SERIES_INSTANCE_UID: "Series Instance UID",
}

#: PS3.5 9.1 also forbids leading zeros and empty components; equipment sends them nevertheless and they do no harm.
UID = re.compile(r"[0-9.]*[0-9][0-9.]*")
MAX_UID_CHARACTERS = 64
#: A Series Instance UID only groups the images of a study: any text that can be stored and displayed is accepted.
SERIES_UID = re.compile(r"[ -.0-\[\]-~]{1,128}")
#: Bytes inflated at a time.
INFLATE_STEP = 256 * 1024


class Reader(Protocol):
    """Interface of the two readers of encoded data sets."""

    values: dict[int, bytes]
    inner_values: dict[tuple[int, ...], list[InnerValue]]
    present: set[int]

    @property
    def understood(self) -> bool: ...  # noqa: D102
    def feed(self, fragment: bytes | memoryview) -> None: ...  # noqa: D102
    def finish(self) -> None: ...  # noqa: D102


class InflatingReader:
    """An ElementReader for the deflated transfer syntaxes (PS3.5 A.5), with a limit on the inflated bytes."""

    def __init__(self, wanted: AbstractSet[int], inner: AbstractSet[tuple[int, ...]] = frozenset()) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._reader = ElementReader(wanted, inner=inner)
        self._inflated = 0
        self.values, self.present = self._reader.values, self._reader.present
        self.inner_values = self._reader.inner_values

    @property
    def understood(self) -> bool:
        """False after an element that cannot be parsed."""
        return self._reader.understood

    def feed(self, fragment: bytes | memoryview) -> None:
        """Read the next deflated bytes.

        Raises ExpandsTooFar if they cannot be inflated or exceed the limit, TooComplex as ElementReader does.
        """
        rest, inflated = bytes(fragment), b""
        while not self._inflater.eof and (rest or len(inflated) == INFLATE_STEP):
            try:
                inflated = self._inflater.decompress(rest, INFLATE_STEP)
            except zlib.error as error:
                raise ExpandsTooFar("the data set cannot be inflated") from error
            rest = self._inflater.unconsumed_tail
            self._inflated += len(inflated)
            if self._inflated > MAX_INFLATED_BYTES:
                raise ExpandsTooFar(f"the data set inflates to more than {MAX_INFLATED_BYTES} bytes")
            self._reader.feed(inflated)

    def finish(self) -> None:
        """End the data set; raises Truncated if the deflated stream or an element is not complete."""
        if not self._inflater.eof:
            raise Truncated("the deflated data set is truncated")
        self._reader.finish()


def reader(
    transfer_syntax_uid: str, wanted: AbstractSet[int], inner: AbstractSet[tuple[int, ...]] = frozenset()
) -> Reader:
    """Return a reader for a transfer syntax, private and unknown ones included; see ElementReader."""
    if transfer_syntax_uid in DEFLATED:
        return InflatingReader(wanted, inner)
    return ElementReader(wanted, inner=inner, big_endian=transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN)


def parse_uid(value: bytes | str, name: str) -> str:
    """Return the UID in a padded value; raises MissingUID if it is empty, MalformedUID if it is not a UID."""
    text = _stripped(value, name)
    if len(text) > MAX_UID_CHARACTERS or not UID.fullmatch(text):
        raise MalformedUID(f"the {name} is malformed")
    return text


def parse_series_uid(value: bytes) -> str:
    """Return the Series Instance UID in a padded value; raises MissingUID or MalformedUID."""
    name = IDENTITY[SERIES_INSTANCE_UID]
    text = _stripped(value, name)
    if not SERIES_UID.fullmatch(text):
        raise MalformedUID(f"the {name} is malformed")
    return text


def _stripped(value: bytes | str, name: str) -> str:
    text = (value if isinstance(value, str) else value.decode("latin-1")).strip("\0 ")
    if not text:
        raise MissingUID(f"the {name} is missing")
    return text


def check_identity(reader: Reader, sop_class_uid: str, sop_instance_uid: str) -> None:
    """Check that all UIDs are present and those of the SOP equal to the command's.

    Raises MissingUID, MalformedUID or DataSetMismatch.
    """
    found = {tag: _uid(reader, tag) for tag in IDENTITY}
    for tag, expected in ((SOP_CLASS_UID, sop_class_uid), (SOP_INSTANCE_UID, sop_instance_uid)):
        if found[tag] != expected:
            raise DataSetMismatch(f"the {IDENTITY[tag]} differs from the command's")


def _uid(reader: Reader, tag: int) -> str:
    if tag in reader.present and tag not in reader.values:
        raise MalformedUID(f"the {IDENTITY[tag]} is malformed")
    if tag not in reader.present and not reader.understood:
        raise MalformedHeader(f"the {IDENTITY[tag]} is not found: a malformed element stands before it")
    value = reader.values.get(tag, b"")
    return parse_series_uid(value) if tag == SERIES_INSTANCE_UID else parse_uid(value, IDENTITY[tag])
