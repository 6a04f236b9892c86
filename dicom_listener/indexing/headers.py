"""What the rows need of an object, read from its file without trusting it: bounded, and no pixel is touched."""

from __future__ import annotations

import contextlib
import hashlib
import re
import warnings
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pydicom.charset import convert_encodings, decode_bytes, default_encoding, python_encoding

from db.studies import priority
from db.studies.lifecycle import ReceivedInstance, StudyAttributes
from db.studies.sop_classes import reportable
from dicom_listener.dicom import data_sets
from dicom_listener.spool import file_meta

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SPECIFIC_CHARACTER_SET = 0x00080005
STUDY_DATE = 0x00080020
ACCESSION_NUMBER = 0x00080050
MODALITY = 0x00080060
STUDY_DESCRIPTION = 0x00081030
PATIENT_NAME = 0x00100010
PATIENT_ID = 0x00100020
PATIENT_BIRTH_DATE = 0x00100030
PATIENT_SEX = 0x00100040
BODY_PART_EXAMINED = 0x00180015
SERIES_NUMBER = 0x00200011
INSTANCE_NUMBER = 0x00200013
NUMBER_OF_STUDY_RELATED_INSTANCES = 0x00201208
REQUESTED_PROCEDURE_PRIORITY = 0x00401003
WANTED = frozenset(data_sets.IDENTITY) | {
    SPECIFIC_CHARACTER_SET,
    STUDY_DATE,
    ACCESSION_NUMBER,
    MODALITY,
    STUDY_DESCRIPTION,
    PATIENT_NAME,
    PATIENT_ID,
    PATIENT_BIRTH_DATE,
    PATIENT_SEX,
    BODY_PART_EXAMINED,
    SERIES_NUMBER,
    INSTANCE_NUMBER,
    NUMBER_OF_STUDY_RELATED_INSTANCES,
    REQUESTED_PROCEDURE_PRIORITY,
}

#: Python's names of the character sets of PS3.3 C.12.1.1.2. pydicom takes every codec of Python's, `base64` too.
ENCODINGS = frozenset(python_encoding.values())
#: Bytes read at a time.
STEP = 2**20
#: From the C-STORE's priority (PS3.7 9.3.1.1: medium, high, low) to ours: greater is more urgent.
PRIORITIES = {0: 0, 1: 1, 2: -1}
NO_RULES: Mapping[str, str] = MappingProxyType({})
#: IS values beyond are nonsense (PS3.5 6.2).
LARGEST_IS = 2**31 - 1
#: What a text of one line cannot contain; Postgres refuses NUL.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Digest:
    """Size of a file and SHA-256, in hex, of transfer syntax and data set."""

    file_bytes: int
    sha256: str


def read_meta(path: Path) -> file_meta.FileMeta:
    """The head of one of our files; raises ValueError where it is none."""
    with path.open("rb") as file:
        return file_meta.decode(file.read(file_meta.LONGEST_HEAD))


def read(
    path: Path, meta: file_meta.FileMeta, file_path: str, priority_rules: Mapping[str, str] = NO_RULES
) -> ReceivedInstance:
    """Read an object that came by C-STORE; *file_path* is what the row will say of where it lies.

    *priority_rules* name the priority of some AE titles.

    Raises Refusal where the data set is not an object's, OSError.
    """
    with path.open("rb") as file:
        file.seek(meta.length)
        reader = data_sets.reader(meta.transfer_syntax_uid, WANTED)
        digest = hashlib.sha256(meta.transfer_syntax_uid.encode())
        while step := file.read(STEP):
            digest.update(step)
            reader.feed(step)
        size = file.tell()
    data_sets.check_identity(reader, meta.sop_class_uid, meta.sop_instance_uid)
    if reportable(meta.sop_class_uid):
        reader.finish()
    texts = Texts(reader.values)
    level = _priority(texts, meta.reception, priority_rules)
    return _instance(texts, meta, Digest(size, digest.hexdigest()), file_path, level)


def digest(path: Path) -> Digest:
    """Digest a file as `read` does; of a file that is none of ours, all of it."""
    with path.open("rb") as file:
        head = file.read(file_meta.LONGEST_HEAD)
        syntax, start = "", 0
        with contextlib.suppress(ValueError):
            meta = file_meta.decode(head)
            syntax, start = meta.transfer_syntax_uid, meta.length
        file.seek(start)
        sha256 = hashlib.sha256(syntax.encode())
        while step := file.read(STEP):
            sha256.update(step)
        return Digest(file.tell(), sha256.hexdigest())


class Texts:
    """The wanted values as text, in the data set's own character sets."""

    def __init__(self, values: dict[int, bytes]) -> None:
        self._values = values
        named = values.get(SPECIFIC_CHARACTER_SET, b"").decode("latin-1").strip("\0 ")
        with _quietly():
            encodings = convert_encodings(named.split("\\") if named else "")
        # An unknown name is read as the default set.
        self._encodings = [name if name in ENCODINGS else default_encoding for name in encodings]

    def __getitem__(self, tag: int) -> str:
        """One line, without padding; empty where the element is missing."""
        value = self._values.get(tag, b"")
        try:
            with _quietly():
                text = decode_bytes(value, self._encodings, set(b"^="))
        except (LookupError, ValueError):  # code extensions that lead nowhere
            text = value.decode("latin-1")
        return CONTROL_CHARACTERS.sub("", text).strip()

    def number(self, tag: int) -> int | None:
        """An IS value, None where there is none to be read."""
        try:
            number = int(self[tag])
        except ValueError:
            return None
        return number if abs(number) <= LARGEST_IS else None

    def uid(self, tag: int) -> str:
        """A UI value."""
        return self._values[tag].decode("latin-1").rstrip("\0 ")


def _priority(texts: Texts, reception: file_meta.Reception, rules: Mapping[str, str]) -> int:
    """What the C-STORE, the order and the site's rules for both AE titles agree on."""
    said = (
        texts[REQUESTED_PROCEDURE_PRIORITY].upper(),
        *(rules.get(title.strip(), "") for title in _titles(reception)),
    )
    return priority.agreed(PRIORITIES.get(reception.priority, 0), *(priority.LEVELS.get(word, 0) for word in said))


def _titles(reception: file_meta.Reception) -> tuple[str, str]:
    return reception.calling_ae_title, reception.called_ae_title


def _instance(texts: Texts, meta: file_meta.FileMeta, digest: Digest, file_path: str, level: int) -> ReceivedInstance:
    reception = meta.reception
    return ReceivedInstance(
        study=StudyAttributes(
            study_instance_uid=texts.uid(data_sets.STUDY_INSTANCE_UID),
            patient_id=texts[PATIENT_ID],
            patient_name=texts[PATIENT_NAME],
            patient_birth_date=texts[PATIENT_BIRTH_DATE],
            patient_sex=texts[PATIENT_SEX],
            accession_number=texts[ACCESSION_NUMBER],
            study_date=texts[STUDY_DATE],
            study_description=texts[STUDY_DESCRIPTION],
            priority=level,
            announced=texts.number(NUMBER_OF_STUDY_RELATED_INSTANCES),
        ),
        sop_instance_uid=meta.sop_instance_uid,
        sop_class_uid=meta.sop_class_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        series_instance_uid=texts.uid(data_sets.SERIES_INSTANCE_UID),
        series_number=texts.number(SERIES_NUMBER),
        instance_number=texts.number(INSTANCE_NUMBER),
        modality=texts[MODALITY],
        body_part=texts[BODY_PART_EXAMINED],
        reportable=reportable(meta.sop_class_uid),
        file_path=file_path,
        file_bytes=digest.file_bytes,
        sha256=digest.sha256,
        received_at=reception.received_at,
        association_id=reception.association_id,
        calling_ae_title=reception.calling_ae_title,
        called_ae_title=reception.called_ae_title,
    )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without pydicom's warnings: they quote the values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
