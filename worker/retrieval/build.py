"""Build a reference index from a folder of earlier cases: `cases.jsonl` beside their DICOM files.

One JSON object a line: `case_id`, `files` (relative paths), `report`, and optionally `modality`, `body_part`, `labels`
and `patient`. Loading a folder again brings its cases up to date; a snapshot is built from the folders named.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from rich.progress import track

from db import reference
from db.errors import ConfigurationError, NotReportable
from db.session import transaction
from worker.images.study import StoredInstance, images_of
from worker.retrieval.snapshot import IndexedCase, writing

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Collection, Iterator, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from pydicom import Dataset

    from worker.images.study import StudyImages
    from worker.retrieval.snapshot import SnapshotWriter

CASES = "cases.jsonl"
REQUIRED = ("case_id", "files", "report")
IDENTITY = ("SOPInstanceUID", "PatientID", "StudyInstanceUID")


class Looker(Protocol):
    """What the build needs of a model."""

    digest: str

    def patch_tokens(self, images: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """What it sees at each place: float32 [images, layers, patches, channels]."""


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


class Owner(NamedTuple):
    """Whose a case is, as fingerprints: what keeps a study from being quoted its own report."""

    patient_hash: str
    study_hash: str


def read_cases(folder: Path) -> list[Case]:
    """The cases of a folder, one at least; raises ConfigurationError that names the line that is wrong."""
    try:
        # Some editors put a byte order mark first.
        lines = (folder / CASES).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigurationError(
            f"{folder} holds no {CASES}: one JSON object a line, with case_id, files, report"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{CASES} is not written in UTF-8: save it so") from error
    cases = [_case(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not cases:
        raise ConfigurationError(f"{CASES} lists no case: one JSON object a line, with case_id, files, report")
    if len({case.case_id for case in cases}) < len(cases):
        raise ConfigurationError(f"{CASES} lists a case_id more than once")
    return cases


def _case(number: int, line: str) -> Case:
    """The case of a line; what is wrong with it is said without its values, which may be a patient's."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise _not_a_case(number, f"no JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _not_a_case(number, "it is no JSON object")
    known = {name: fields[name] for name in Case.__dataclass_fields__ if name in fields}
    for name in REQUIRED:
        if not known.get(name):
            raise _not_a_case(number, f"it has no {name}")
    for name, value in known.items():
        many = name in {"files", "labels"}
        if not (_all_text(value) if many else isinstance(value, str)):
            raise _not_a_case(number, f"its {name} must be {'a list of texts' if many else 'a text'}")
    return Case(**known)


def _all_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _not_a_case(number: int, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{CASES} line {number} is not a case: {problem}")


def build(
    folder: Path, data_dir: Path, model: Looker, label: Callable[[str], Collection[str]], *, images_per_case: int
) -> tuple[int, list[str]]:
    """Look at the cases of *folder*, store rows and a snapshot; returns how many, and what was left out and why.

    *label* reads in a report what its images show. Raises ConfigurationError where no case could be used.
    """
    directory = f"reference/{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%f}"
    with writing(data_dir / directory, model_digest=model.digest) as snapshot:
        indexed, left_out = collect(folder, snapshot, model, label, images_per_case, store=_add)
        left_out += snapshot.write()
    with transaction() as session:
        reference.add_snapshot(session, directory=directory, model_digest=model.digest, cases=indexed)
    return indexed, left_out


def collect(
    folder: Path,
    snapshot: SnapshotWriter,
    model: Looker,
    label: Callable[[str], Collection[str]],
    images_per_case: int,
    *,
    store: Callable[[Path, Case, StudyImages, Owner], uuid.UUID],
) -> tuple[int, list[str]]:
    """Put the cases of *folder* into *snapshot* under the ids that *store* gives; how many, and who was left out."""
    indexed, left_out = 0, []
    for case in track(read_cases(folder), description="reference cases"):
        try:
            seen = images_of(instances_of(folder, case), budget=images_per_case)
        except NotReportable as problem:
            left_out.append(f"{case.case_id}: {problem.detail}")
            continue
        tokens = model.patch_tokens([image.pixels for image in seen.images])
        if not np.isfinite(tokens).all():
            # One such vector would spoil what is known of its whole modality.
            left_out.append(f"{case.case_id}: the model's vision tower computed no finite numbers")
            continue
        owner = owner_of(folder, case)
        row = IndexedCase(
            case_id=str(store(folder, case, seen, owner)),
            modality=case.modality or seen.modality,
            patient_hash=owner.patient_hash,
            study_hash=owner.study_hash,
            # As it will be read from a study's headers, not as the list has it.
            body_part=seen.body_part,
        )
        snapshot.add(row, tokens, label(case.report))
        indexed += 1
    if not indexed:
        raise ConfigurationError(f"no case of {folder} could be used; the first: {(left_out or ['none is listed'])[0]}")
    return indexed, left_out


def instances_of(folder: Path, case: Case) -> list[StoredInstance]:
    """The files of a case; raises NotReportable where one is missing or lies outside of *folder*."""
    return list(_instances(folder, case))


def _instances(folder: Path, case: Case) -> Iterator[StoredInstance]:
    for name in case.files:
        path, header = _header(folder, name)
        yield StoredInstance(path=path, sop_instance_uid=str(header.get("SOPInstanceUID", name)))


def owner_of(folder: Path, case: Case) -> Owner:
    """Whose *case* is. The list's word for the patient counts, else that of the files.

    Raises NotReportable where its first file cannot be asked.
    """
    _, header = _header(folder, case.files[0])
    patient = case.patient or str(header.get("PatientID", ""))
    return Owner(reference.fingerprint(patient), reference.fingerprint(str(header.get("StudyInstanceUID", ""))))


def _header(folder: Path, name: str) -> tuple[Path, Dataset]:
    """Where a file of a case is, and what of its header says which and whose it is."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise NotReportable("missing_file", f"no file {name}")
    try:
        return path, dcmread(path, stop_before_pixels=True, specific_tags=list(IDENTITY))
    except InvalidDicomError as error:
        raise NotReportable("not_dicom", f"{name} is no DICOM file") from error


def _add(folder: Path, case: Case, seen: StudyImages, owner: Owner) -> uuid.UUID:
    with transaction() as session:
        return reference.add_case(
            session,
            source=folder.name,
            source_case=case.case_id,
            modality=case.modality or seen.modality,
            body_part=case.body_part or seen.body_part,
            patient_hash=owner.patient_hash,
            study_hash=owner.study_hash,
            report=case.report,
            labels=case.labels,
        )
