"""Read a folder of earlier cases: `cases.jsonl` beside their DICOM files.

One JSON object a line: `case_id`, `files` (relative paths), `report`, and optionally `modality`, `body_part`, `labels`
and `patient`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from db import reference
from db.errors import ConfigurationError, NotReportable, Reason

if TYPE_CHECKING:
    from pathlib import Path

    from pydicom import Dataset

CASES = "cases.jsonl"
EXPECTED = "expected one JSON object a line, with case_id, files and report"
REQUIRED = ("case_id", "files", "report")
IDENTITY = ("SOPInstanceUID", "PatientID", "StudyInstanceUID")


@dataclass(frozen=True, slots=True)
class Case:
    """One line of `cases.jsonl`."""

    case_id: str
    files: list[str]
    report: str
    modality: str = ""
    body_part: str = ""
    labels: list[str] = field(default_factory=list)
    patient: str = ""


class CaseFile(NamedTuple):
    """A DICOM file of a case."""

    path: Path
    sop_instance_uid: str


class Owner(NamedTuple):
    """Fingerprints of a case's patient and study; they keep a study from being quoted its own report."""

    patient_hash: str
    study_hash: str


def read_cases(folder: Path) -> list[Case]:
    """Read the cases of a folder, at least one; raises ConfigurationError with the number of an invalid line."""
    try:
        # Some editors put a byte order mark first.
        lines = (folder / CASES).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigurationError(f"no readable {CASES} in {folder}: {EXPECTED}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"invalid encoding of {CASES}: save it as UTF-8") from error
    cases = [_case(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not cases:
        raise ConfigurationError(f"no case in {CASES}: {EXPECTED}")
    if len({case.case_id for case in cases}) < len(cases):
        raise ConfigurationError(f"duplicate case_id in {CASES}: each case needs its own")
    return cases


def _case(number: int, line: str) -> Case:
    """Parse one line; error texts leave out its values, which may identify a patient."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise _invalid_line(number, f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise _invalid_line(number, "not a JSON object")
    # Any other value is no promise that a person wrote the report.
    if fields.get("synthetic", False) is not False:
        raise _invalid_line(number, "a model wrote this report (synthetic): use only reports that a person signed")
    known = {name: fields[name] for name in Case.__dataclass_fields__ if name in fields}
    for name in REQUIRED:
        if not known.get(name):
            raise _invalid_line(number, f"{name} is missing or empty")
    for name, value in known.items():
        is_list = name in {"files", "labels"}
        if not (_is_list_of_strings(value) if is_list else isinstance(value, str)):
            raise _invalid_line(number, f"{name} must be a {'list of strings' if is_list else 'string'}")
    return Case(**known)


def _is_list_of_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _invalid_line(number: int, problem: str) -> ConfigurationError:
    return ConfigurationError(f"invalid line {number} of {CASES}: {problem}")


def files_of(folder: Path, case: Case) -> list[CaseFile]:
    """Return the files of a case; raises NotReportable if one is missing, outside *folder* or not DICOM."""
    files = []
    for name in case.files:
        path, header = _header(folder, name)
        files.append(CaseFile(path, str(header.get("SOPInstanceUID", name))))
    return files


def owner_of(folder: Path, case: Case) -> Owner:
    """Return the owner of *case*, with the patient from `cases.jsonl` or, if unset, from the first file.

    Raises NotReportable if that file is missing, outside *folder* or not DICOM.
    """
    _, header = _header(folder, case.files[0])
    patient = case.patient or str(header.get("PatientID", ""))
    return Owner(reference.fingerprint(patient), reference.fingerprint(str(header.get("StudyInstanceUID", ""))))


def study_of(folder: Path, case: Case) -> str:
    """Return the Study Instance UID of the first file of *case*; raises NotReportable as `owner_of`."""
    return str(_header(folder, case.files[0])[1].get("StudyInstanceUID", ""))


def _header(folder: Path, name: str) -> tuple[Path, Dataset]:
    """Path of a file and the identifiers in its header."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise NotReportable(Reason.MISSING, f"no file {name}")
    try:
        return path, dcmread(path, stop_before_pixels=True, specific_tags=list(IDENTITY))
    except InvalidDicomError as error:
        raise NotReportable(Reason.NOT_DICOM, f"not a DICOM file: {name}") from error
