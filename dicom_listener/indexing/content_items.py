"""Read the content tree of a structured report within limits (PS3.3 C.17.3): its values trust no sender."""

from __future__ import annotations

import io
import math
import warnings
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydicom.filereader import read_dataset

from db.studies.transfer_syntaxes import DEFLATED, EXPLICIT_VR_BIG_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
from dicom_listener.indexing import headers
from dicom_listener.spool.durable import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pydicom import Dataset

#: Bytes of a data set, also after inflation: a measurement report has some kilobytes.
MAX_BYTES = 1 << 20
#: Content items of a report, and levels below its root: TID 1500 has six.
MAX_ITEMS = 2000
MAX_DEPTH = 16


class NotRead(Exception):
    """Raised when a structured report exceeds a limit; the text quotes no value."""


@dataclass(frozen=True, slots=True)
class Code:
    """A code (PS3.3 8.8); empty if it is missing."""

    value: str = ""
    scheme: str = ""
    meaning: str = ""

    @property
    def words(self) -> str:
        """The meaning, to compare with."""
        return " ".join(self.meaning.casefold().split())


@dataclass(frozen=True, slots=True)
class Item:
    """A content item: *text* of CODE (its meaning) and TEXT, *number* and *units* of NUM."""

    value_type: str
    relationship: str
    concept: Code
    text: str
    number: float | None
    units: str
    children: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """The root of a report, and the Study Instance UIDs of its evidence (PS3.3 C.17.2)."""

    root: Item
    evidence: frozenset[str]


def read(path: Path) -> Content:
    """Read the report in a stored file; raises NotRead for a limit, and what pydicom raises for a malformed one."""
    meta = headers.read_meta(path)
    with open_regular(path) as file:
        file.seek(meta.length)
        encoded = file.read(MAX_BYTES + 1)
    if meta.transfer_syntax_uid in DEFLATED:
        encoded = zlib.decompressobj(-zlib.MAX_WBITS).decompress(encoded, MAX_BYTES + 1)
    if len(encoded) > MAX_BYTES:
        raise NotRead(f"it has more than {MAX_BYTES} bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values, which may be a patient's
        dataset = read_dataset(
            io.BytesIO(encoded),
            is_implicit_VR=meta.transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN,
            is_little_endian=meta.transfer_syntax_uid != EXPLICIT_VR_BIG_ENDIAN,
        )
        evidence = {str(one.get("StudyInstanceUID") or "") for one in _items(dataset, "0040A375")}
        return Content(_Reader().item(dataset, 0), frozenset(evidence - {""}))


class _Reader:
    """Counts the items of one report."""

    def __init__(self) -> None:
        self._left = MAX_ITEMS

    def item(self, dataset: Dataset, depth: int) -> Item:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise NotRead(f"it has more than {MAX_ITEMS} content items or {MAX_DEPTH} levels")
        value_type = str(dataset.get("ValueType") or "")
        number, units = _number(dataset) if value_type == "NUM" else (None, "")
        return Item(
            value_type,
            str(dataset.get("RelationshipType") or ""),
            _code(dataset, "0040A043"),
            _code(dataset, "0040A168").meaning if value_type == "CODE" else str(dataset.get("TextValue") or ""),
            number,
            units,
            tuple(self.item(child, depth + 1) for child in _items(dataset, "0040A730")),
        )


def _items(dataset: Dataset, tag: str) -> Iterator[Dataset]:
    element = dataset.get(int(tag, 16))
    yield from element.value or () if element is not None and element.VR == "SQ" else ()


def _code(dataset: Dataset, tag: str) -> Code:
    """Return the code of a sequence of one item (PS3.3 8.8); an empty one for several."""
    found = list(_items(dataset, tag))
    if len(found) != 1:
        return Code()
    values = (found[0].get(name) for name in ("CodeValue", "LongCodeValue", "URNCodeValue"))
    value = next((str(value) for value in values if value), "")
    return Code(value, str(found[0].get("CodingSchemeDesignator") or ""), str(found[0].get("CodeMeaning") or ""))


def _number(dataset: Dataset) -> tuple[float | None, str]:
    """Return the one numeric value of a NUM item and the code of its units; None if it has none."""
    measured = list(_items(dataset, "0040A300"))
    if len(measured) != 1:
        return None, ""
    value = measured[0].get("NumericValue")
    number = float(value) if isinstance(value, int | float | str) and str(value) else math.nan
    return (number if math.isfinite(number) else None), _code(measured[0], "004008EA").value
