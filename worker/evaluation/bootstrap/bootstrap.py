"""`prelim bootstrap`: write image-text pairs for fine-tuning from studies with confirmed findings and no report.

A report of the model is never a reference report: each pair is marked `synthetic`, which reference cases must not be.
"""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.progress import track

from db.errors import NotReportable, PermanentFailure, TransientFailure
from worker.evaluation.bootstrap.export import Pair, check_free, label_counts, new_part, save_images, write
from worker.evaluation.bootstrap.guided import drafts_of, showing_all
from worker.evaluation.bootstrap.labelled_cases import read_labelled
from worker.evaluation.bootstrap.pair_filters import filtered
from worker.findings.labeller import LABELLER_VERSION
from worker.resident import Resident, loaded
from worker.retrieval.duplicates import digests_of, prints_of, shows_the_same

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from db.settings import Settings
    from worker.evaluation.bootstrap.export import Form
    from worker.evaluation.bootstrap.guided import Drafts
    from worker.evaluation.bootstrap.labelled_cases import LabelledCase
    from worker.pipeline.pipeline import Pipeline

#: Earlier pairs of the modality, the most similar unaligned, with which a study is compared as a near-duplicate.
_COMPARED = 3
_FAILURES = (NotReportable, PermanentFailure, TransientFailure)


@dataclass(slots=True)
class _Seen:
    """Images of the pairs so far."""

    digests: set[str] = field(default_factory=set)
    prints: dict[str, list[npt.NDArray[np.uint8]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, modality: str, images: list[npt.NDArray[np.uint8]]) -> bool:
        """Return whether the images are new, and remember them if so."""
        own, known, prints = set(digests_of(images)), self.prints[modality], prints_of(images)
        nearest = sorted(known, key=lambda one: -_unaligned(one, prints))[:_COMPARED]
        if own & self.digests or any(shows_the_same(prints, one) for one in nearest):
            return False
        self.digests |= own
        known.append(prints)
        return True


@dataclass(slots=True)
class Bootstrapped:
    """Accepted pairs, cases for a person, and the number of cases without a pair for each reason."""

    cases: int
    #: Folder that collects the images of the pairs.
    part: Path
    pairs: list[Pair] = field(default_factory=list)
    hard: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    seen: _Seen = field(default_factory=_Seen)

    def add(self, labelled: LabelledCase, drafts: Drafts) -> None:
        """Filter the drafts of a case and keep the pair, or the reasons for which there is none."""
        guided, case = drafts.guided, labelled.case
        result = filtered(guided, drafts.blind, labelled.confirmed)
        report = f"Findings: {result.findings} Impression: {result.impression}"
        origin = _origin(labelled, drafts, trimmed=result.trimmed)
        images = [one.png for one in guided.images]
        reasons = [*result.rejected, *result.hard]
        if not reasons and not self.seen.add(guided.provenance["modality"], [_pixels(png) for png in images]):
            reasons.append("near_duplicate")
        self.reasons.update(reasons)
        if result.hard:
            known = {"case_id": case.case_id, "reasons": reasons, "labels": case.labels, "report": report}
            self.hard.append({"synthetic": True} | known | origin)
        if not reasons:
            names = save_images(self.part, len(self.pairs) + 1, images)
            patient = drafts.owner.patient_hash
            self.pairs.append(Pair(case.case_id, patient, drafts.prompt, report, case.labels, names, origin))


def bootstrap(cases: Path, settings: Settings, out: Path, form: Form) -> Bootstrapped:
    """Write the pairs of the labelled cases in the file *cases* into the folder *out*, with the configured checkpoint.

    Raises ConfigurationError if the file, the folder or the checkpoint cannot be used.
    """
    # Invalid lines are rejected before minutes of loading.
    labelled = read_labelled(cases)
    check_free(out)
    with loaded(settings) as model:
        pipeline = Resident(model, settings).pipeline()
        return write_pairs(labelled, cases.parent, pipeline, out, form, demo=model.demo)


def write_pairs(
    labelled: Sequence[LabelledCase], folder: Path, pipeline: Pipeline, out: Path, form: Form, *, demo: bool
) -> Bootstrapped:
    """Write the pairs of cases, with files in *folder*, into the folder *out*; *demo* is stored in the datasheet."""
    showing = showing_all(pipeline)
    result = Bootstrapped(len(labelled), new_part(out))
    for one in track(labelled, "studies"):
        try:
            drafts = drafts_of(showing, folder, one)
        except _FAILURES as problem:
            result.reasons[f"not_reported: {problem.reason}"] += 1
            continue
        result.add(one, drafts)
    sheet = _datasheet(result, labelled, pipeline) | {"format": form, "demo": demo}
    write(result.part, out, form, result.pairs, result.hard, sheet)
    return result


def _datasheet(result: Bootstrapped, labelled: Sequence[LabelledCase], pipeline: Pipeline) -> dict[str, Any]:
    return {
        "synthetic": True,
        "cases": result.cases,
        "pairs": len(result.pairs),
        "yield": round(len(result.pairs) / result.cases, 4),
        "trimmed": sum(pair.fields["trimmed"] for pair in result.pairs),
        "cases_by_reason_without_pair": dict(result.reasons),
        "labels": label_counts([one.case.labels for one in labelled], [pair.labels for pair in result.pairs]),
        "confirmed_by": dict(Counter(one.confirmed_by for one in labelled)),
        "sources": dict(Counter(one.source for one in labelled)),
        "without_patient": sum(not pair.patient_hash for pair in result.pairs),
        "model_digest": pipeline.model.digest,
        "prompt_version": pipeline.model.prompt_version,
        "index_snapshot": pipeline.index.snapshot if pipeline.index else None,
        "labeller": LABELLER_VERSION,
    }


def _origin(labelled: LabelledCase, drafts: Drafts, *, trimmed: bool) -> dict[str, Any]:
    draft = drafts.guided
    return {
        "confirmed_by": labelled.confirmed_by,
        "source": labelled.source,
        "trimmed": trimmed,
        "modality": draft.provenance["modality"],
        "body_part": draft.provenance["body_part"],
        "model_digest": draft.model_digest,
        "prompt_version": draft.prompt_version,
    }


def _pixels(png: bytes) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _unaligned(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the highest correlation of two images of two studies as they lie."""
    rows = (prints.reshape(len(prints), -1).astype(np.float32) for prints in (one, other))
    a, b = (row - row.mean(axis=1, keepdims=True) for row in rows)
    norms = np.linalg.norm(a, axis=1)[:, None] * np.linalg.norm(b, axis=1) + 1e-9
    return float((a @ b.T / norms).max(initial=-1.0))
