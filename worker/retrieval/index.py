"""Search similar reference cases exactly, in immutable snapshots.

One flat FAISS index for each modality family and body part: half-precision vectors, inner product of normalised
vectors, which is the cosine similarity. Up to about 1e5 cases a search takes tens of milliseconds; generation takes
seconds. It finds every neighbour, is deterministic, and can exclude cases; an approximate index would give that up for
no benefit.
The feature statistics of the family are stored beside it (worker.retrieval.features).
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from db.errors import ConfigurationError
from db.studies.modalities import family_of
from worker.retrieval.duplicates import digests_of, prints_of, shows_the_same
from worker.retrieval.families import case_vector, normalised
from worker.retrieval.label_regression import LabelScores
from worker.retrieval.out_of_distribution import OodResult
from worker.retrieval.snapshot import archive_beside, read_family, read_manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from worker.retrieval.families import Partition, Tokens, Vectors
    from worker.retrieval.features import FeatureStats

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

    stats: FeatureStats
    #: By body part.
    partitions: dict[str, Partition]
    #: Number of patients with each body part.
    patients_of: dict[str, int]
    patients: int
    min_similarity: float


class ReferenceIndex:
    """A loaded snapshot, usable only with the model that computed its vectors."""

    def __init__(self, directory: Path, *, model_digest: str) -> None:
        """Load; raises ConfigurationError for a damaged snapshot or one of another model."""
        self.snapshot = directory.name
        self._archive = archive_beside(directory, model_digest)
        manifest = read_manifest(directory, model_digest)
        #: Figures measured when the index was built (worker.retrieval.validation).
        self.figures: dict[str, Any] = manifest["figures"]
        loaded = {name: _load(directory, entry) for name, entry in manifest["modalities"].items()}
        self._families = {name: family for name, family in loaded.items() if family}

    def __len__(self) -> int:
        return sum(len(part.rows) for family in self._families.values() for part in family.partitions.values())

    def case_ids(self) -> list[str]:
        """Return the ids of all cases."""
        parts = [part for family in self._families.values() for part in family.partitions.values()]
        return [case_id.decode() for part in parts for case_id in part.rows["case_id"]]

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

    def label_scores(
        self,
        tokens: Tokens,
        *,
        modality: str,
        without: Collection[uuid.UUID] = (),
        patient_hashes: Collection[str] = (),
        study_hash: str = "",
    ) -> LabelScores | None:
        """Return the scores of the labels in images, given as patch tokens; None if the modality has too few cases.

        By the regression without the patients of the cases *without*, and without the patient of the study.
        """
        family = self._families.get(family_of(modality))
        if family is None:
            return None
        own = _Own(frozenset(patient_hashes) - {""}, study_hash, frozenset(map(str, without)))
        weights, left_out = family.stats.weights_without(_owners(family.partitions.values(), own))
        # Image by image: see case_vector.
        shares = [family.stats.label_shares(tokens[row : row + 1], weights) for row in range(len(tokens))]
        thresholds = family.stats.label_thresholds, family.stats.omission_thresholds
        return LabelScores(family.stats.label_names, *thresholds, np.concatenate(shares), left_out)

    def search(
        self,
        tokens: Tokens,
        *,
        modality: str,
        count: int,
        body_part: str = "",
        patient_hashes: Collection[str] = (),
        study_hash: str = "",
        excluded: Collection[uuid.UUID] = (),
    ) -> list[Neighbour]:
        """Return the *count* cases most similar to patch *tokens*, best first, without those of the same patient.

        Only cases of *body_part*, or of a combination that contains it, if the index has any; else of all body parts.
        """
        family = self._families.get(family_of(modality))
        if family is None or count < 1 or not len(tokens):
            return []
        vector = normalised(case_vector(tokens, family.stats)[None])
        own = _Own(frozenset(patient_hashes) - {""}, study_hash, frozenset(map(str, excluded)))
        near = [part for name, part in family.partitions.items() if _shares_part(name, body_part)]
        found = _nearest(near, vector, count, own) or _nearest(family.partitions.values(), vector, count, own)
        return [Neighbour(uuid.UUID(case_id), similarity) for case_id, similarity in found]

    def same_images(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        modality: str,
        among: Iterable[uuid.UUID],
        patient_hashes: Collection[str] = (),
        study_hash: str = "",
    ) -> set[uuid.UUID]:
        """Return the cases that show one of *images*: any with equal pixels, those of *among* also if nearly so.

        They are of the same patient, even under another Patient ID; cases under the patient's own are left out.
        """
        family = self._families.get(family_of(modality))
        if family is None:
            return set()
        digests = digests_of(images)
        own = _Own(frozenset(patient_hashes) - {""}, study_hash, frozenset())
        equal: set[uuid.UUID] = set()
        for part in family.partitions.values():
            rows = np.unique(part.digests["row"][part.keys["digest"].places(digests)])
            equal |= {uuid.UUID(name.decode()) for name in part.rows["case_id"][rows[~own.rows(part)[rows]]]}
        theirs = {case_id: self._archive.prints(str(case_id)) for case_id in among if case_id not in equal}
        prints = prints_of(images if theirs else ())
        return equal | {case for case, known in theirs.items() if known is not None and shows_the_same(prints, known)}


@dataclass(frozen=True, slots=True)
class _Own:
    """Identifiers of the cases that a study must not be quoted."""

    patient_hashes: frozenset[str]
    study_hash: str
    case_ids: frozenset[str]

    def rows(self, part: Partition) -> npt.NDArray[np.bool_]:
        """Return for each row of a partition whether it is one of them."""
        own = np.zeros(len(part.rows), bool)
        own[part.keys["patient"].places(self.patient_hashes)] = True
        own[part.keys["study"].places({self.study_hash} - {""})] = True
        own[part.keys["case_id"].places(self.case_ids)] = True
        return own


def _owners(parts: Iterable[Partition], own: _Own) -> set[str]:
    """Return the keys of the patients of cases (`IndexedCase.owner`)."""
    rows = np.concatenate([part.rows[own.rows(part)] for part in parts])
    return {(row["patient"] or row["study"] or row["case_id"]).decode() for row in rows}


def _nearest(parts: Iterable[Partition], vector: Vectors, count: int, own: _Own) -> list[tuple[str, float]]:
    """Return id and similarity of the *count* nearest cases, best first."""
    found: list[tuple[str, float]] = []
    for part in parts:
        left_out = own.rows(part)
        # Asking for as many more as are left out keeps the search exact.
        wanted = min(count + int(left_out.sum()), len(part.rows))
        similarities, rows = part.index.search(vector, wanted)
        pairs = zip(rows[0], similarities[0], strict=True)
        found += [(part.rows["case_id"][row].decode(), float(value)) for row, value in pairs if not left_out[row]]
    return sorted(found, key=lambda pair: -pair[1])[:count]


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
    if own:
        return resembled
    vector = normalised(case_vector(tokens, family.stats)[None])
    nearest = {part: cases.index.search(vector, 1)[0][0][0] for part, cases in family.partitions.items()}
    return resembled if max(nearest, key=nearest.__getitem__) == resembled else ""


def _shares_part(one: str, other: str) -> bool:
    """Return whether two names of body parts may mean the same: unknown, the whole body, or a part in common."""
    if not one or not other or "WHOLE BODY" in (one, other):
        return True
    return bool((set(re.findall(r"[A-Z]+", one)) & set(re.findall(r"[A-Z]+", other))) - {"AND"})


def _load(directory: Path, entry: dict[str, Any]) -> _Family | None:
    """Load a family; None if it has a single image, which cannot be searched."""
    try:
        family = read_family(directory, entry)
        patients_of = {part["body_part"]: part["patients"] for part in entry["parts"]}
        if family.stats is None:
            return None
        return _Family(family.stats, family.partitions, patients_of, entry["patients"], entry["least_similarity"])
    except KeyError:
        raise ConfigurationError(
            f"the reference index {directory.name} was built by an earlier version: build it again"
        ) from None
