"""Compare a study's images with the reference index and select the similar cases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from worker.retrieval.validation import NOT_MEASURED, Validation, validation_of

if TYPE_CHECKING:
    import uuid
    from collections.abc import Collection, Sequence

    import numpy as np
    import numpy.typing as npt

    from worker.retrieval.families import Tokens
    from worker.retrieval.index import Neighbour
    from worker.retrieval.label_regression import LabelScores
    from worker.retrieval.out_of_distribution import OodResult


class Index(Protocol):
    """A reference index: worker.retrieval.index.ReferenceIndex, or a fake."""

    snapshot: str
    #: Figures measured when it was built.
    figures: dict[str, Any]

    def compare(self, tokens: Tokens, *, modality: str, body_part: str) -> OodResult | None:
        """Score images against the modality's reference images; None if there are too few."""

    def label_scores(
        self,
        tokens: Tokens,
        *,
        modality: str,
        without: Collection[uuid.UUID],
        patient_hashes: Collection[str],
        study_hash: str,
    ) -> LabelScores | None:
        """Return the scores of the labels of the modality's reference cases; None if there are too few.

        By a regression without the patients of the cases *without*, and without the patient of the study.
        """

    def search(
        self,
        tokens: Tokens,
        *,
        modality: str,
        count: int,
        body_part: str,
        patient_hashes: Collection[str],
        study_hash: str,
        excluded: Collection[uuid.UUID],
    ) -> list[Neighbour]:
        """Return the most similar reference cases, best first, without those of the same patient or another part."""

    def same_images(
        self,
        images: Sequence[npt.NDArray[np.uint8]],
        *,
        modality: str,
        among: Collection[uuid.UUID],
        patient_hashes: Collection[str],
        study_hash: str,
    ) -> set[uuid.UUID]:
        """Return the cases of other identities that show one of *images*, equal or, *among* some, nearly so."""


@dataclass(frozen=True, slots=True)
class Query:
    """A study to compare: patch tokens [images, layers, patches, channels] and attributes from the headers."""

    tokens: Tokens
    modality: str
    body_part: str
    #: Of the Patient ID and of those that a person corrected.
    patient_hashes: frozenset[str] = frozenset()
    study_hash: str = ""
    #: The images that the tokens are of.
    images: Sequence[npt.NDArray[np.uint8]] = ()


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Result of a comparison; the defaults are those of a study that was not compared."""

    #: None if the reference index has too few images of the modality, or the study was not compared.
    ood: OodResult | None = None
    #: True if no image is in distribution and such studies are rejected.
    rejected: bool = False
    similar: Sequence[Neighbour] = ()
    #: Scores of the reference set's labels in the images in distribution; None without any or without labels.
    labels: LabelScores | None = None
    #: Similarity of the nearest case, if even that one is not similar enough.
    below_threshold: float | None = None
    #: Number of cases with the same images under another identity, which were not quoted.
    same_images: int = 0
    #: How well the model read cases of this kind from the site's archive; no case if it was not measured.
    validation: Validation = NOT_MEASURED
    #: True if that is well enough.
    validated: bool = False


def retrieve(index: Index, query: Query, *, count: int, ood_reject: bool, min_validated_f1: float = 0.0) -> Retrieval:
    """Return at most *count* similar cases; none for a study whose images are all out of distribution."""
    validation = validation_of(index.figures, query.modality, query.body_part)
    found = _compared(index, query, count=count, ood_reject=ood_reject)
    return replace(found, validation=validation, validated=validation.reaches(min_validated_f1))


def _compared(index: Index, query: Query, *, count: int, ood_reject: bool) -> Retrieval:
    ood = index.compare(query.tokens, modality=query.modality, body_part=query.body_part)
    if ood is None:
        return Retrieval()
    if not ood.in_distribution:
        return Retrieval(ood, rejected=ood_reject and ood.can_reject)
    # The neighbours of an out-of-distribution image mean nothing.
    tokens = query.tokens[ood.in_distribution]
    # Images that contradict their header are compared with every body part.
    body_part = "" if ood.resembled_part else query.body_part
    found, same = _of_others(index, replace(query, tokens=tokens, body_part=body_part), count)
    similar = [neighbour for neighbour in found if neighbour.similarity >= ood.min_similarity]
    return Retrieval(
        ood,
        similar=similar,
        labels=index.label_scores(
            tokens,
            modality=query.modality,
            # What a report quotes must not also decide what its images show; nor what the patient's own images do.
            without={*same, *(neighbour.case_id for neighbour in similar)},
            patient_hashes=query.patient_hashes,
            study_hash=query.study_hash,
        ),
        below_threshold=found[0].similarity if found and not similar else None,
        same_images=len(same),
    )


def _of_others(index: Index, query: Query, count: int) -> tuple[list[Neighbour], set[uuid.UUID]]:
    """Return the nearest cases of other patients, and the cases that show the images of the study.

    A near-duplicate is found because it is nearest; without it, the next ones are compared.
    """
    own: dict[str, Any] = {
        "modality": query.modality,
        "patient_hashes": query.patient_hashes,
        "study_hash": query.study_hash,
    }
    same = index.same_images(query.images, among=(), **own)
    while True:
        found = index.search(query.tokens, count=count, body_part=query.body_part, excluded=same, **own)
        again = index.same_images(query.images, among=[case.case_id for case in found], **own) - same
        if not again:
            return found, same
        same |= again
