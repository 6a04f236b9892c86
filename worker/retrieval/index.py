"""Exact search over the vectors of the reference cases, in snapshots that are never changed.

One flat FAISS index a modality: half-precision vectors, inner product of normalised vectors, which is the cosine
similarity. Up to some 1e5 cases that costs tens of milliseconds beside seconds of generation, finds every neighbour,
gives the same answer every time and lets a case be left out; an approximate index would buy nothing and lose that.
Beside each lies what is usual in the images of its modality: the vectors are made with it, and it tells images that
are none of the kind, and cases that are only the nearest of many unlike ones (worker.retrieval.features).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from db.errors import ConfigurationError
from db.studies.modalities import family_of
from worker.retrieval import features
from worker.retrieval.snapshot import MANIFEST, IndexedCase, case_vector, normalised

if TYPE_CHECKING:
    from pathlib import Path

    from worker.retrieval.snapshot import Tokens

#: With images of fewer patients than these nobody can say that an image is none of the kind: measured on phantoms,
#: chests of forty refuse up to two genuine ones in a hundred, of twenty up to nine. Slices of one head are one witness.
ENOUGH_TO_REFUSE = 40


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A similar earlier case; similarity is the cosine, -1 to 1."""

    case_id: uuid.UUID
    similarity: float


@dataclass(frozen=True, slots=True)
class Look:
    """How a study's images compare with the reference images of their modality."""

    #: Of each image: how strange it is, in units of the usual.
    z: list[float]
    #: Reference images it was compared with.
    images: int
    #: Whether they are of enough patients, and of the same part of the body, so that a stranger may be refused.
    decides: bool
    #: The z above which an image is none of the kind.
    limit: float
    #: The cosine below which a case is not similar, though none be nearer.
    least_similarity: float

    @property
    def usual(self) -> list[int]:
        """The images that are of the kind, by number from 0."""
        return [number for number, z in enumerate(self.z) if z <= self.limit]


@dataclass(frozen=True, slots=True)
class _Kind:
    """The loaded part of one modality."""

    index: faiss.Index
    usual: features.Usual
    cases: list[IndexedCase]
    body_parts: frozenset[str]
    patients: int
    least_similarity: float


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
        try:
            entries = [(name, entry) for name, entry in manifest["modalities"].items() if entry["index"]]
            self._kinds = {name: _load(directory, entry) for name, entry in entries}
        except KeyError:
            raise ConfigurationError(
                f"the reference index {directory.name} was made by an earlier version: build it again"
            ) from None

    def __len__(self) -> int:
        return sum(len(kind.cases) for kind in self._kinds.values())

    def look(self, tokens: Tokens, *, modality: str, body_part: str) -> Look | None:
        """How images, given as a model's patch tokens, compare with the modality's; None where it has too few."""
        kind = self._kinds.get(family_of(modality))
        if kind is None:
            return None
        z = [float(features.z(tokens[row : row + 1], kind.usual)[0]) for row in range(len(tokens))]
        decides = kind.patients >= ENOUGH_TO_REFUSE and body_part in kind.body_parts
        rounded, limit = [round(value, 2) for value in z], round(kind.usual.limit, 2)
        return Look(rounded, kind.usual.images, decides, limit, kind.least_similarity)

    def search(
        self,
        tokens: Tokens,
        *,
        modality: str,
        count: int,
        patient_hash: str = "",
        study_hash: str = "",
    ) -> list[Neighbour]:
        """The *count* most similar cases of the modality, best first, without the patient's own.

        *tokens* are the patch tokens of the study's images.
        """
        kind = self._kinds.get(family_of(modality))
        if kind is None or count < 1 or not len(tokens):
            return []
        own = Counter(_is_own(case, patient_hash, study_hash) for case in kind.cases)[True]
        # So many more are asked for as are left out, which keeps the search exact.
        wanted = min(count + own, len(kind.cases))
        similarities, rows = kind.index.search(normalised(case_vector(tokens, kind.usual)[None]), wanted)
        neighbours = [
            Neighbour(uuid.UUID(kind.cases[row].case_id), float(similarity))
            for similarity, row in zip(similarities[0], rows[0], strict=True)
            if not _is_own(kind.cases[row], patient_hash, study_hash)
        ]
        return neighbours[:count]


def _load(directory: Path, entry: dict[str, Any]) -> _Kind:
    index = faiss.deserialize_index(np.frombuffer(_checked(directory, entry["index"]), dtype=np.uint8))
    _checked(directory, entry["usual"])
    usual = features.Usual.load(directory / entry["usual"]["file"])
    cases = [IndexedCase(**case) for case in entry["cases"]]
    patients = len({case.owner for case in cases})
    return _Kind(index, usual, cases, frozenset(entry["body_parts"]), patients, entry["least_similarity"])


def _is_own(case: IndexedCase, patient_hash: str, study_hash: str) -> bool:
    same_patient = bool(patient_hash) and case.patient_hash == patient_hash
    return same_patient or (bool(study_hash) and case.study_hash == study_hash)


def _checked(directory: Path, entry: dict[str, str]) -> bytes:
    path = directory / entry["file"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"the reference index misses {path.name}: build it again") from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ConfigurationError(f"the reference index is damaged ({path.name}): build it again")
    return content
