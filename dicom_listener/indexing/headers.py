"""Read the attributes for an object's rows from its file: within limits, without pixel data, trusting no value."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from db.studies import imaging_request, priority
from db.studies.lifecycle import ReceivedInstance, StudyAttributes
from db.studies.sop_classes import is_reportable
from dicom_listener.dicom import character_sets, data_sets
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from db.settings import Settings
    from dicom_listener.dicom.elements import InnerValue


class Tag(IntEnum):
    """Elements read for the rows, besides the UIDs."""

    SPECIFIC_CHARACTER_SET = 0x00080005
    STUDY_DATE = 0x00080020
    ACCESSION_NUMBER = 0x00080050
    MODALITY = 0x00080060
    CODE_MEANING = 0x00080104
    STUDY_DESCRIPTION = 0x00081030
    PATIENT_NAME = 0x00100010
    PATIENT_ID = 0x00100020
    ISSUER_OF_PATIENT_ID = 0x00100021
    PATIENT_BIRTH_DATE = 0x00100030
    PATIENT_SEX = 0x00100040
    BODY_PART_EXAMINED = 0x00180015
    SERIES_NUMBER = 0x00200011
    INSTANCE_NUMBER = 0x00200013
    NUMBER_OF_STUDY_RELATED_INSTANCES = 0x00201208
    REQUESTED_PROCEDURE_DESCRIPTION = 0x00321060
    REQUESTED_PROCEDURE_CODE_SEQUENCE = 0x00321064
    REQUEST_ATTRIBUTES_SEQUENCE = 0x00400275
    REASON_FOR_THE_REQUESTED_PROCEDURE = 0x00401002
    REQUESTED_PROCEDURE_PRIORITY = 0x00401003
    REASON_FOR_REQUESTED_PROCEDURE_CODE_SEQUENCE = 0x0040100A


#: Text and code of what was requested, and why: in the data set, or in items of the Request Attributes Sequence.
REASON = Tag.REASON_FOR_THE_REQUESTED_PROCEDURE, Tag.REASON_FOR_REQUESTED_PROCEDURE_CODE_SEQUENCE
PROCEDURE = Tag.REQUESTED_PROCEDURE_DESCRIPTION, Tag.REQUESTED_PROCEDURE_CODE_SEQUENCE
_REQUEST = (Tag.REQUEST_ATTRIBUTES_SEQUENCE,)
#: Element of REASON or PROCEDURE -> its paths.
INNER: Mapping[int, tuple[tuple[int, ...], ...]] = {
    text: ((*_REQUEST, text), (code, Tag.CODE_MEANING), (*_REQUEST, code, Tag.CODE_MEANING))
    for text, code in (REASON, PROCEDURE)
}
_TEXTS = frozenset(path for paths in INNER.values() for path in paths)
INNER_PATHS = _TEXTS | {(*path[:-1], Tag.SPECIFIC_CHARACTER_SET) for path in _TEXTS}
_SEQUENCES = {Tag.CODE_MEANING, Tag.REQUEST_ATTRIBUTES_SEQUENCE, REASON[1], PROCEDURE[1]}
WANTED = (frozenset(data_sets.IDENTITY) | frozenset(Tag)) - _SEQUENCES

#: Attributes of a study, each from one element.
OF_STUDY = {
    "patient_id": Tag.PATIENT_ID,
    "issuer_of_patient_id": Tag.ISSUER_OF_PATIENT_ID,
    "patient_name": Tag.PATIENT_NAME,
    "patient_birth_date": Tag.PATIENT_BIRTH_DATE,
    "patient_sex": Tag.PATIENT_SEX,
    "accession_number": Tag.ACCESSION_NUMBER,
    "study_date": Tag.STUDY_DATE,
    "study_description": Tag.STUDY_DESCRIPTION,
}

#: Bytes read at a time.
READ_BYTES = 2**20
#: From the priority of C-STORE (PS3.7 9.3.1.1: medium, high, low) to that of a study: greater is more urgent.
PRIORITIES = {0: 0, 1: 1, 2: -1}
NO_INNER: Mapping[tuple[int, ...], list[InnerValue]] = MappingProxyType({})
NO_RULES: Mapping[str, str] = MappingProxyType({})
#: The largest IS value (PS3.5 6.2).
MAX_INTEGER_STRING = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Digest:
    """Size of a file and SHA-256, in hex, of transfer syntax and data set."""

    file_bytes: int
    sha256: str


def read_meta(path: Path) -> file_meta.FileMeta:
    """Return the decoded header of a stored file; raises ValueError if it has none, OSError."""
    with open_regular(path) as file:
        return file_meta.decode(file.read(file_meta.MAX_HEADER_BYTES))


def read(path: Path, meta: file_meta.FileMeta, file_path: str, settings: Settings | None = None) -> ReceivedInstance:
    """Read an object received by C-STORE; *file_path* is its path for the row.

    *settings* have the priority of some AE titles, and whether files are moved to an object storage.
    Raises Refusal as the listener does, because the file may have
    been damaged since; OSError.
    """
    with open_regular(path) as file:
        file.seek(meta.length)
        reader = data_sets.reader(meta.transfer_syntax_uid, WANTED, INNER_PATHS)
        digest = hashlib.sha256(meta.transfer_syntax_uid.encode())
        while step := file.read(READ_BYTES):
            digest.update(step)
            reader.feed(step)
        size = file.tell()
    data_sets.check_identity(reader, meta.sop_class_uid, meta.sop_instance_uid)
    if is_reportable(meta.sop_class_uid):
        reader.finish()
    texts = Texts(reader.values, reader.inner_values, reader.present)
    level = _priority(texts, meta.reception, settings.study.priority_rules if settings else NO_RULES)
    found = _instance(texts, meta, Digest(size, digest.hexdigest()), file_path, level)
    moves = settings is not None and settings.storage.storage_url is not None
    return replace(found, storage_due_at=found.received_at) if moves else found


def digest(path: Path) -> Digest:
    """Digest a file as `read` does; the complete file if it lacks the header of a stored file. Raises OSError."""
    with open_regular(path) as file:
        head = file.read(file_meta.MAX_HEADER_BYTES)
        syntax, start = "", 0
        with contextlib.suppress(ValueError):
            meta = file_meta.decode(head)
            syntax, start = meta.transfer_syntax_uid, meta.length
        file.seek(start)
        sha256 = hashlib.sha256(syntax.encode())
        while step := file.read(READ_BYTES):
            sha256.update(step)
        return Digest(file.tell(), sha256.hexdigest())


class Texts:
    """Values of elements as text, in the character sets of their data set."""

    def __init__(
        self,
        values: dict[int, bytes],
        inner: Mapping[tuple[int, ...], list[InnerValue]] = NO_INNER,
        present: AbstractSet[int] = frozenset(),
    ) -> None:
        self._values, self._inner, self._present = values, inner, present
        self._character_set = values.get(Tag.SPECIFIC_CHARACTER_SET, b"")

    def __getitem__(self, tag: int) -> str:
        """Return one line without padding; empty if the element is missing."""
        value = self._values.get(tag, b"")
        return character_sets.decode(value, self._character_set, person_name=tag == Tag.PATIENT_NAME)

    def request(self, tag: int) -> str:
        """Return the distinct texts of the request's element *tag*: its own, and those of its paths."""
        found = [self[tag]]
        for path in INNER[tag]:
            for value, own in self._inner.get(path, ()):
                found.append(character_sets.decode(value, self._character_set if own is None else own))
        too_long = [path for path, values in self._inner.items() if not values and self._holds(path, tag)]
        if too_long or self.is_too_long(tag):
            found.append(imaging_request.NOT_READ)
        return imaging_request.merged("", *found) or ""

    @staticmethod
    def _holds(path: tuple[int, ...], tag: int) -> bool:
        """Return whether *path* leads to the request's element *tag*, or to a sequence that may hold it."""
        return any(wanted[: len(path)] == path for wanted in INNER[tag])

    def number(self, tag: int) -> int | None:
        """Return an IS value, also if it is written as 3.0, 3,0 or 1E1; None if it is missing or no integer."""
        try:
            number = float(self[tag].replace(",", "."))
        except ValueError:
            return None
        return int(number) if number.is_integer() and abs(number) <= MAX_INTEGER_STRING else None

    def is_too_long(self, tag: int) -> bool:
        """Return whether the element has a value that exceeds the limit of the reader, so that it is not known."""
        return tag in self._present and tag not in self._values

    def uid(self, tag: int) -> str:
        """Return a UI value; raises KeyError if it is missing."""
        return self._values[tag].decode("latin-1").strip("\0 ")


def _priority(texts: Texts, reception: file_meta.Reception, rules: Mapping[str, str]) -> int:
    """Return the priority by C-STORE, requested procedure and the site's rules for both AE titles."""
    titles = reception.calling_ae_title, reception.called_ae_title
    levels = (texts[Tag.REQUESTED_PROCEDURE_PRIORITY].upper(), *(rules.get(title.strip(), "") for title in titles))
    return priority.highest(PRIORITIES.get(reception.priority, 0), *(priority.LEVELS.get(word, 0) for word in levels))


def _study(texts: Texts, level: int) -> StudyAttributes:
    return StudyAttributes(
        study_instance_uid=texts.uid(data_sets.STUDY_INSTANCE_UID),
        **{name: texts[tag] for name, tag in OF_STUDY.items()},
        not_read=tuple(name for name, tag in OF_STUDY.items() if texts.is_too_long(tag)),
        indication=texts.request(Tag.REASON_FOR_THE_REQUESTED_PROCEDURE),
        requested_procedure=texts.request(Tag.REQUESTED_PROCEDURE_DESCRIPTION),
        priority=level,
        announced=texts.number(Tag.NUMBER_OF_STUDY_RELATED_INSTANCES),
    )


def _instance(texts: Texts, meta: file_meta.FileMeta, digest: Digest, file_path: str, level: int) -> ReceivedInstance:
    reception = meta.reception
    return ReceivedInstance(
        study=_study(texts, level),
        sop_instance_uid=meta.sop_instance_uid,
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        series_instance_uid=texts.uid(data_sets.SERIES_INSTANCE_UID),
        series_number=texts.number(Tag.SERIES_NUMBER),
        instance_number=texts.number(Tag.INSTANCE_NUMBER),
        modality=texts[Tag.MODALITY],
        body_part=texts[Tag.BODY_PART_EXAMINED],
        reportable=is_reportable(meta.sop_class_uid),
        file_path=file_path,
        file_bytes=digest.file_bytes,
        sha256=digest.sha256,
        received_at=reception.received_at,
        association_id=reception.association_id,
        calling_ae_title=reception.calling_ae_title,
        called_ae_title=reception.called_ae_title,
    )
