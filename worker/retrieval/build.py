"""Build a snapshot of the reference index from a folder of earlier cases.

The caller gives the functions that encode a case's files, label its report and store its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.progress import track

from db.errors import ConfigurationError, NotReportable, Reason
from worker.retrieval.archive import ArchivedCase, IndexedCase
from worker.retrieval.case_files import files_of, owner_of, read_cases
from worker.retrieval.snapshot import SET_ASIDE, writing

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from worker.retrieval.case_files import Case, CaseFile, Owner
    from worker.retrieval.families import Tokens


#: Characters of a report; signed ones have up to 8,000. It is searched whole whenever it is quoted.
MAX_REPORT = 50_000


@dataclass(frozen=True, slots=True)
class EncodedCase:
    """Patch tokens of a case's images [images, layers, patches, channels]; modality and body part of its headers.

    `views` and `turned` have the deep layers of perturbed views of some images (worker.retrieval.perturbation), and of
    the same upside down; `prints` and `digests`
    identify the images (worker.retrieval.duplicates).
    """

    tokens: Tokens
    views: Tokens
    turned: Tokens
    prints: npt.NDArray[np.uint8]
    digests: Sequence[str]
    modality: str
    body_part: str


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps of a build that need the model, the labeller and the database."""

    #: Raises NotReportable if the files give no image.
    encode: Callable[[Sequence[CaseFile]], EncodedCase]
    #: Labels of the findings that a report affirms.
    label: Callable[[str], Collection[str]]
    #: Returns the id of the stored case; raises NotReportable if it must not be indexed.
    store: Callable[[Case, EncodedCase, Owner], uuid.UUID]
    #: Returns the case as it may be quoted (worker.retrieval.admission).
    clean: Callable[[Case], Case] = lambda case: case
    #: Returns id and reason of the cases whose report and images disagree; they are not indexed.
    disagreeing: Callable[[Iterable[ArchivedCase]], dict[str, str]] = lambda _: {}
    #: Returns the figures to keep with the snapshot, once all cases are stored.
    measure: Callable[[], dict[str, Any]] = dict


def build(folder: Path, directory: Path, steps: Steps, *, model_digest: str) -> tuple[int, list[str]]:
    """Write the snapshot *directory*; returns the number of indexed cases and a message for each exclusion.

    Raises ConfigurationError if no case could be indexed.
    """
    indexed, excluded = 0, []
    with writing(directory, model_digest=model_digest) as snapshot:
        for case in track(read_cases(folder), description="reference cases"):
            try:
                snapshot.add_archived(archived(folder, case, steps))
            except NotReportable as problem:
                excluded.append(f"{case.case_id}: {problem.detail}")
            else:
                indexed += 1
        if not indexed:
            raise ConfigurationError(f"no usable case in {folder}: first exclusion: {excluded[0]}")
        disagreeing = steps.disagreeing(snapshot.cases())
        snapshot.leave_out(disagreeing)
        excluded += snapshot.write(steps.measure() | {SET_ASIDE: disagreeing})
    return indexed - len(disagreeing), excluded


def archived(folder: Path, case: Case, steps: Steps) -> ArchivedCase:
    """Encode, clean and store a case; raises NotReportable if it cannot be indexed."""
    if len(case.report) > MAX_REPORT:
        detail = f"the report has {len(case.report)} characters: index only reports of at most {MAX_REPORT}"
        raise NotReportable(Reason.TOO_LARGE, detail)
    encoded = steps.encode(files_of(folder, case))
    if not all(np.isfinite(tokens).all() for tokens in (encoded.tokens, encoded.views, encoded.turned)):
        # One such vector would invalidate the statistics of its whole modality family.
        raise NotReportable(Reason.MODEL_ERROR, "the model's vision tower returned non-finite numbers")
    owner, case = owner_of(folder, case), steps.clean(case)
    row = IndexedCase(
        case_id=str(steps.store(case, encoded, owner)),
        modality=case.modality or encoded.modality,
        patient_hash=owner.patient_hash,
        study_hash=owner.study_hash,
        # From the headers, as for the studies compared with it, not from `cases.jsonl`.
        body_part=encoded.body_part,
    )
    labels = sorted(steps.label(case.report))
    return ArchivedCase(row, encoded.tokens, labels, encoded.views, encoded.prints, encoded.digests, encoded.turned)
