"""Exact search over the vectors of the reference cases, in snapshots that are never changed.

One flat FAISS index a modality: half-precision vectors, inner product of normalised vectors, which is the cosine
similarity. Up to some 3e5 cases that costs tens of milliseconds beside seconds of generation, finds every neighbour,
gives the same answer every time and lets a case be left out; an approximate index would buy nothing and lose that.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from db.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    #: float32 [rows, dimension]
    Vectors = npt.NDArray[np.float32]

MANIFEST = "snapshot.json"


@dataclass(frozen=True, slots=True)
class IndexedCase:
    """A reference case as the index knows it: where it may be shown, and for whom it must be left out."""

    case_id: str
    modality: str
    patient_hash: str = ""
    study_hash: str = ""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A similar earlier case; similarity is the cosine, -1 to 1."""

    case_id: uuid.UUID
    similarity: float


def write_snapshot(directory: Path, *, model_digest: str, cases: Sequence[IndexedCase], vectors: Vectors) -> None:
    """Write the index of *cases* with their *vectors* [cases, dimension]; all of it appears at once, or nothing.

    Raises ConfigurationError where the two differ in length.
    """
    if len(cases) != len(vectors):
        raise ConfigurationError(f"{len(cases)} reference cases but {len(vectors)} vectors")
    partial = directory.with_name(directory.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files: dict[str, dict[str, Any]] = {}
    for modality, rows in _rows_by_modality(cases).items():
        path = partial / f"{len(files)}.faiss"
        faiss.write_index(_flat_index(vectors[rows]), str(path))
        files[modality] = {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "cases": [asdict(cases[row]) for row in rows],
        }
    manifest = {"model_digest": model_digest, "dimension": int(vectors.shape[1]), "modalities": files}
    (partial / MANIFEST).write_text(json.dumps(manifest))
    partial.rename(directory)


def _rows_by_modality(cases: Sequence[IndexedCase]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, case in enumerate(cases):
        rows[case.modality].append(row)
    return rows


def _flat_index(vectors: Vectors) -> faiss.Index:
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.add(_normalised(vectors))
    return index


def _normalised(vectors: Vectors) -> Vectors:
    rows = np.ascontiguousarray(vectors, dtype=np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True).astype(np.float32)
    # A vector of zeros is similar to nothing.
    normalised: Vectors = rows / np.maximum(lengths, np.float32(1e-30))
    return normalised


class ReferenceIndex:
    """A loaded snapshot; only for the model that made its vectors."""

    def __init__(self, directory: Path, *, model_digest: str) -> None:
        """Load; raises ConfigurationError for another model's snapshot, or a damaged one."""
        self.snapshot = directory.name
        try:
            manifest = json.loads((directory / MANIFEST).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ConfigurationError(
                f"{directory} is no reference index: build one with `prelim reference build`"
            ) from error
        if manifest["model_digest"] != model_digest:
            raise ConfigurationError(
                f"the reference index {directory.name} was made with another model:"
                " build one for this checkpoint with `prelim reference build`"
            )
        self.dimension: int = manifest["dimension"]
        self._indexes: dict[str, faiss.Index] = {}
        self._cases: dict[str, list[IndexedCase]] = {}
        for modality, entry in manifest["modalities"].items():
            self._indexes[modality] = _read_checked(directory / entry["file"], entry["sha256"])
            self._cases[modality] = [IndexedCase(**case) for case in entry["cases"]]

    def __len__(self) -> int:
        return sum(len(cases) for cases in self._cases.values())

    def search(
        self,
        vector: Vectors,
        *,
        modality: str,
        count: int,
        patient_hash: str = "",
        study_hash: str = "",
    ) -> list[Neighbour]:
        """The *count* most similar cases of the modality, best first, without the patient's own."""
        cases = self._cases.get(modality)
        if not cases or count < 1:
            return []
        own = self._own(modality, patient_hash, study_hash)
        wanted = min(count + own, len(cases))
        similarities, rows = self._indexes[modality].search(_normalised(vector.reshape(1, -1)), wanted)
        neighbours = [
            Neighbour(uuid.UUID(cases[row].case_id), float(similarity))
            for similarity, row in zip(similarities[0], rows[0], strict=True)
            if not _is_own(cases[row], patient_hash, study_hash)
        ]
        return neighbours[:count]

    def _own(self, modality: str, patient_hash: str, study_hash: str) -> int:
        """How many rows are to be left out: so many more are asked for, which keeps the search exact."""
        return Counter(_is_own(case, patient_hash, study_hash) for case in self._cases[modality])[True]


def _is_own(case: IndexedCase, patient_hash: str, study_hash: str) -> bool:
    same_patient = bool(patient_hash) and case.patient_hash == patient_hash
    return same_patient or (bool(study_hash) and case.study_hash == study_hash)


def _read_checked(path: Path, sha256: str) -> faiss.Index:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the reference index misses {path.name}: build it again") from error
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigurationError(f"the reference index is damaged ({path.name}): build it again")
    return faiss.deserialize_index(np.frombuffer(content, dtype=np.uint8))
