"""Compare and complete the identity of a study: the patient's demographics, its accession number and its date.

Harmless variants are equal: blanks and NULs around a value, letter case, width and composition of Unicode characters,
empty trailing components of a name, an added ideographic or phonetic group, a title before the name, an empty value;
with the same Patient ID, characters of a name that could not be decoded.
Everything else is a difference that a person has to judge: leading zeros of an ID, a missing middle name, sex O
against F. Patients have been confused by less.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from db.models import Study
    from db.studies.lifecycle import StudyAttributes

#: Fields of an identity, with the names of PS3.6.
LABELS = {
    "patient_id": "Patient ID",
    "issuer_of_patient_id": "Issuer of Patient ID",
    "patient_name": "Patient's Name",
    "patient_birth_date": "Patient's Birth Date",
    "patient_sex": "Patient's Sex",
    "accession_number": "Accession Number",
    "study_date": "Study Date",
}
#: Alphabetic, ideographic and phonetic (PS3.5 6.2.1).
GROUPS = 3
#: Position of the prefix among the components of a name: a title such as Dr. does not identify a person.
PREFIX = 3
#: Stands for bytes without a meaning in the declared character set (dicom_listener.dicom.character_sets).
UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
#: Values that mean an unknown sex; PS3.3 C.2.3 leaves the value empty instead.
UNKNOWN_SEX = frozenset(("", "u", "unknown"))


class Identity(NamedTuple):
    """Values of one identity, as received."""

    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_name: str = ""
    patient_birth_date: str = ""
    patient_sex: str = ""
    accession_number: str = ""
    study_date: str = ""


def of(identified: Study | StudyAttributes) -> Identity:
    """Return the identity in a study's row or in an object's attributes."""
    return Identity(*(getattr(identified, name) for name in Identity._fields))


def differences(known: Identity, received: Identity) -> list[str]:
    """Return the fields in which two identities really differ; an empty value differs from none."""
    if known == received:
        return []
    pairs = {name: (_plain(name, ours), _plain(name, theirs)) for name, ours, theirs in _by_field(known, received)}
    found = [name for name, (ours, theirs) in pairs.items() if ours and theirs and ours != theirs]
    same_id = bool(pairs["patient_id"][0]) and pairs["patient_id"][0] == pairs["patient_id"][1]
    if _names_differ(known.patient_name, received.patient_name, same_id=same_id):
        found.append("patient_name")
    ours, theirs = pairs["accession_number"]
    if "study_date" in found and ours and ours == theirs:
        # One request: the examination went on after midnight.
        found.remove("study_date")
    return [name for name in LABELS if name in found]


def is_identified(received: Identity) -> bool:
    """Return whether an object has a Patient ID or a Patient's Name."""
    return bool(_text(received.patient_id)) or any(_groups(received.patient_name))


def completed(known: Identity, received: Identity) -> Identity:
    """Return *known* with the values that it lacks and *received*, which is of the same patient, has."""
    values = {
        name: ours if _plain(name, ours) or not _plain(name, theirs) else theirs
        for name, ours, theirs in _by_field(known, received)
    }
    return Identity(**values | {"patient_name": _completed_name(known.patient_name, received.patient_name)})


def corrected(right: Identity, wrong: Identity) -> Identity:
    """Return *right* with the values that it lacks and *wrong* has; never a group of a wrong name."""
    name = "" if "patient_name" in differences(wrong, right) else wrong.patient_name
    return completed(right, wrong._replace(patient_name=name))


def filled(before: Identity, after: Identity) -> list[str]:
    """Return the fields that are empty in *before* and not in *after*."""
    return [name for name, ours, theirs in _by_field(before, after) if not ours and theirs]


def labels(fields: list[str]) -> str:
    """Return the names of fields for people: "Patient ID, Patient's Name"."""
    return ", ".join(LABELS[name] for name in fields)


def _by_field(known: Identity, received: Identity) -> list[tuple[str, str, str]]:
    return list(zip(Identity._fields, known, received, strict=True))


def _plain(name: str, value: str) -> str:
    """Return a value without its harmless variations; empty for a name, which has rules of its own."""
    text = _text(value)
    if name == "patient_name":
        return ""
    if name == "patient_sex":
        return "" if text in UNKNOWN_SEX else text
    if name in {"patient_birth_date", "study_date"}:
        # ACR-NEMA wrote 1970.01.01; zeros stand for an unknown date.
        digits = text.replace(".", "").replace("-", "")
        return digits if digits.strip("0") else ""
    return text


def _text(value: str) -> str:
    """Return *value* in one letter case, width and composition, with single blanks."""
    return " ".join(unicodedata.normalize("NFKC", value).casefold().replace("\0", " ").split())


def _groups(name: str) -> list[tuple[str, ...]]:
    """Return the components of each group of a person name, without prefix and empty trailing components."""
    # Full-width delimiters, too.
    groups = unicodedata.normalize("NFKC", name).split("=")
    return [_components(group) for group in (groups + [""] * GROUPS)[:GROUPS]]


def _components(group: str) -> tuple[str, ...]:
    parts = [_text(part) for part in group.split("^")]
    del parts[PREFIX : PREFIX + 1]
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def _names_differ(known: str, received: str, *, same_id: bool) -> bool:
    """Return whether two names really differ.

    Groups of one position are compared if they are of one script. If the Patient ID is the same, undecodable characters
    are skipped, and names without a comparable group, "Li^Na" and "=李^娜", are of one person.
    """
    ours, theirs = _groups(known), _groups(received)
    if not any(ours) or not any(theirs):
        return False
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a and b and _script(a) == _script(b)]
    if any(a != b and not (same_id and _may_be_equal(a, b)) for a, b in pairs):
        return True
    return not (set(filter(None, ours)) & set(filter(None, theirs)) or same_id)


def _may_be_equal(ours: tuple[str, ...], theirs: tuple[str, ...]) -> bool:
    """Return whether two groups differ only where one has characters that could not be decoded."""
    one, other = "^".join(ours), "^".join(theirs)
    return len(one) == len(other) and all(a == b or UNDECODABLE in (a, b) for a, b in zip(one, other, strict=True))


def _script(group: tuple[str, ...]) -> str:
    """Return the script of a group by the name of its first letter: LATIN, CJK, HANGUL ..."""
    letter = next((character for character in "".join(group) if character.isalpha()), "")
    return unicodedata.name(letter, "").split(" ")[0] if letter else "LATIN"


def _completed_name(known: str, received: str) -> str:
    if not any(_groups(known)):
        return received if any(_groups(received)) else known
    if UNDECODABLE in known and UNDECODABLE not in received and any(_groups(received)):
        return _completed_name(received, known)
    if _script(_groups(known)[0]) != "LATIN" and _groups(received)[0] and _script(_groups(received)[0]) == "LATIN":
        # Ideographs in the alphabetic group: the other name has each group in its place.
        known, received = received, known
    ours, theirs = ((name.split("=") + [""] * GROUPS)[:GROUPS] for name in (known, received))
    if all(mine.strip("^ ") or not other.strip("^ ") for mine, other in zip(ours, theirs, strict=True)):
        return known
    filled = [mine if mine.strip("^ ") else other for mine, other in zip(ours, theirs, strict=True)]
    return "=".join(filled).rstrip("=")
