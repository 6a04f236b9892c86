"""Search similar reference cases exactly, in immutable snapshots.

One flat FAISS index for each modality family: half-precision vectors, inner product of normalised vectors, which is the
cosine similarity. Up to about 1e5 cases a search takes tens of milliseconds; generation takes seconds. It finds every
neighbour, is deterministic, and can exclude cases; an approximate index would give that up for no benefit.
The feature statistics of the family are stored beside it (worker.retrieval.features).
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from db.errors import ConfigurationError
from db.studies.modalities import family_of
from worker.retrieval.features import FeatureStats, LabelScores
from worker.retrieval.out_of_distribution import OodResult
from worker.retrieval.snapshot import MANIFEST, IndexedCase, case_vector, normalised

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from worker.retrieval.snapshot import Tokens

#: With images of fewer patients none is rejected. Measured on phantoms: chests of 40 patients reject up to 2 in 100
#: in-distribution images, of 20 patients up to 9. Patients are counted because the slices of one head are not
#: independent.
MIN_PATIENTS = 40


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A similar reference case; similarity is the cosine, -1 to 1."""

    case_id: uuid.UUID
    similarity: float


@dataclass(frozen=True, slots=True)
class _Family:
    """The loaded part of one modality family."""

    index: faiss.Index
    stats: FeatureStats
    cases: list[IndexedCase]
    #: Number of patients with each body part.
    patients_of: dict[str, int]
    patients: int
    min_similarity: float


class ReferenceIndex:
    """A loaded snapshot, usable only with the model that computed its vectors."""

    def __init__(self, directory: Path, *, model_digest: str) -> None:
        """Load; raises ConfigurationError for a damaged snapshot or one of another model."""
        self.snapshot = directory.name
        try:
            manifest = json.loads((directory / MANIFEST).read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise ConfigurationError(
                f"no reference index in {directory}: build one with `prelim reference build`"
            ) from error
        if manifest["model_digest"] != model_digest:
            raise ConfigurationError(
                f"the reference index {directory.name} was built with a different model:"
                " build one for this checkpoint with `prelim reference build`"
            )
        try:
            entries = [(name, entry) for name, entry in manifest["modalities"].items() if entry["index"]]
            self._families = {name: _load(directory, entry) for name, entry in entries}
        except KeyError:
            raise ConfigurationError(
                f"the reference index {directory.name} was built by an earlier version: build it again"
            ) from None

    def __len__(self) -> int:
        return sum(len(family.cases) for family in self._families.values())

    def compare(self, tokens: Tokens, *, modality: str, body_part: str) -> OodResult | None:
        """Score images, given as patch tokens, against the modality's reference images; None if there are too few."""
        family = self._families.get(family_of(modality))
        if family is None:
            return None
        # Image by image: see case_vector.
        scores = [float(family.stats.score(tokens[row : row + 1])[0]) for row in range(len(tokens))]
        result = OodResult(
            scores=[round(score, 2) for score in scores],
            reference_images=family.stats.images,
            can_reject=family.patients >= MIN_PATIENTS and body_part in family.patients_of,
            threshold=round(family.stats.threshold, 2),
            min_similarity=family.min_similarity,
        )
        known = tokens[result.in_distribution]
        return replace(result, resembled_part=_resembled_part(family, known, body_part) if len(known) else "")

    def label_scores(self, tokens: Tokens, *, modality: str) -> LabelScores | None:
        """Return the scores of the labels in images, given as patch tokens; None if the modality has too few cases."""
        family = self._families.get(family_of(modality))
        if family is None:
            return None
        # Image by image: see case_vector.
        shares = [family.stats.label_shares(tokens[row : row + 1]) for row in range(len(tokens))]
        return LabelScores(family.stats.label_names, family.stats.label_thresholds, np.concatenate(shares))

    def search(
        self,
        tokens: Tokens,
        *,
        modality: str,
        count: int,
        body_part: str = "",
        patient_hashes: Collection[str] = (),
        study_hash: str = "",
    ) -> list[Neighbour]:
        """Return the *count* cases most similar to patch *tokens*, best first, without those of the same patient.

        Only cases of *body_part*, or of a combination that contains it, if the index has any; else of all body parts.
        """
        family = self._families.get(family_of(modality))
        if family is None or count < 1 or not len(tokens):
            return []
        near = {part for part in family.patients_of if _shares_part(part, body_part)}
        quotable = [not _is_own(case, patient_hashes, study_hash) for case in family.cases]
        of_part = [own and case.body_part in near for own, case in zip(quotable, family.cases, strict=True)]
        chosen = of_part if any(of_part) else quotable
        # Asking for as many more as are excluded keeps the search exact.
        found = _nearest(family, tokens, count + chosen.count(False))
        others = [(row, similarity) for row, similarity in found if chosen[row]]
        return [Neighbour(uuid.UUID(family.cases[row].case_id), similarity) for row, similarity in others[:count]]


def _nearest(family: _Family, tokens: Tokens, count: int) -> list[tuple[int, float]]:
    """Return row and similarity of the *count* nearest cases, best first."""
    vector = normalised(case_vector(tokens, family.stats)[None])
    similarities, rows = family.index.search(vector, min(count, len(family.cases)))
    return [(int(row), float(similarity)) for row, similarity in zip(rows[0], similarities[0], strict=True)]


def _resembled_part(family: _Family, tokens: Tokens, body_part: str) -> str:
    """Return the body part whose distribution holds all images, if that of *body_part* holds none; else empty.

    Parts with few patients decide nothing. If the reference set has no case of *body_part*, the nearest case must show
    the other part too. Measured on phantoms: docs/measurements/2026-11-28-body-parts.md.
    """
    patients = {part: count for part, count in family.patients_of.items() if part}
    own = [part for part in patients if _shares_part(part, body_part)]
    others = sorted(part for part, count in patients.items() if count >= MIN_PATIENTS and part not in own)
    if not body_part or not others:
        return ""
    if any(patients[part] < MIN_PATIENTS or family.stats.accepts(part, tokens).any() for part in own):
        return ""
    resembled = next((part for part in others if family.stats.accepts(part, tokens).all()), "")
    ((row, _),) = _nearest(family, tokens, 1)
    return resembled if own or family.cases[row].body_part == resembled else ""


def _shares_part(one: str, other: str) -> bool:
    """Return whether two names of body parts may mean the same: unknown, the whole body, or a part in common."""
    if not one or not other or "WHOLE BODY" in (one, other):
        return True
    return bool((set(re.findall(r"[A-Z]+", one)) & set(re.findall(r"[A-Z]+", other))) - {"AND"})


def _load(directory: Path, entry: dict[str, Any]) -> _Family:
    index = faiss.deserialize_index(np.frombuffer(_verified(directory, entry["index"]), dtype=np.uint8))
    _verified(directory, entry["usual"])
    stats = FeatureStats.load(directory / entry["usual"]["file"])
    cases = [IndexedCase(**case) for case in entry["cases"]]
    patients_of = Counter(part for part, _ in {(case.body_part, case.owner) for case in cases})
    patients = len({case.owner for case in cases})
    return _Family(index, stats, cases, patients_of, patients, entry["least_similarity"])


def _is_own(case: IndexedCase, patient_hashes: Collection[str], study_hash: str) -> bool:
    same_patient = bool(case.patient_hash) and case.patient_hash in patient_hashes
    return same_patient or (bool(study_hash) and case.study_hash == study_hash)


def _verified(directory: Path, entry: dict[str, str]) -> bytes:
    path = directory / entry["file"]
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"missing file {path.name} of the reference index: build it again") from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ConfigurationError(f"damaged file {path.name} of the reference index: build it again")
    return content
