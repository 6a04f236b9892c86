"""`prelim calibrate --task question|diagnosis`: fit and store the scaling of the confidence of answers.

A worker's way from DICOM files to answers, with the configured checkpoint, its current index and no scaling.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import track

from db.answers import scalings
from db.answers.answer import NONE_OF_THESE, Diagnosis
from db.answers.scaling import Scaling, ScalingOfTask
from db.errors import NotPossible
from db.reports.certificates import Bindings
from db.session import transaction
from db.states import JobKind
from worker.evaluation.answers.asked_cases import read_inquiries, write_phantom_inquiries
from worker.evaluation.answers.evaluate_answers import measure
from worker.evaluation.answers.scaling_fit import Fitted, Told, fitted
from worker.findings.labeller import LABELLER_VERSION
from worker.pipeline import diagnosing
from worker.pipeline.possible_answers import KINDS
from worker.resident import Resident, loaded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from db.settings import Settings
    from worker.evaluation.answers.answer_figures import Answered
    from worker.model.resident_model import ResidentModel

#: Nothing is withheld while the confidence is measured.
_UNLIMITED = Scaling(min_confidence=0.0)
_KINDS: dict[JobKind, Sequence[str]] = {
    JobKind.QUESTION: KINDS,
    JobKind.DIAGNOSIS: (diagnosing.ONE, diagnosing.SEVERAL),
}


def calibrate_answers_on_phantoms(
    settings: Settings, task: JobKind, *, count: int, seed: int, alpha: float, delta: float
) -> dict[str, Fitted]:
    """Calibrate the configured checkpoint on inquiries about *count* fresh phantoms; see `calibrated`."""
    with tempfile.TemporaryDirectory() as folder:
        write_phantom_inquiries(Path(folder), count=count, seed=seed)
        what = {"kind": "phantoms", "seed": seed, "where": "synthetic studies"}
        with loaded(settings) as model:
            return calibrated(model, settings, Path(folder), task, what, alpha=alpha, delta=delta)


def calibrate_answers_on_cases(
    settings: Settings, task: JobKind, folder: Path, *, alpha: float, delta: float
) -> dict[str, Fitted]:
    """Calibrate the configured checkpoint on the inquiries of *folder*; see `calibrated`."""
    what = {"kind": "cases", "where": folder.resolve().name}
    with loaded(settings) as model:
        return calibrated(model, settings, folder, task, what, alpha=alpha, delta=delta)


def calibrated(
    model: ResidentModel,
    settings: Settings,
    folder: Path,
    task: JobKind,
    what: Mapping[str, Any],
    *,
    alpha: float,
    delta: float,
) -> dict[str, Fitted]:
    """Fit the scaling of each kind of answers to *task*, store it, and return what was fitted.

    Raises ConfigurationError if folder or index cannot be used, NotPossible if no kind can be calibrated.
    """
    inquiries = read_inquiries(folder, task)
    unlimited = {task: ScalingOfTask(dict.fromkeys(_KINDS[task], _UNLIMITED))}
    pipeline = replace(Resident(model, settings).pipeline(), scaling=unlimited)
    answered, _ = measure(pipeline, folder, track(inquiries, "inquiries"), arbitrate=False)
    found = {kind: fitted(told, alpha=alpha, delta=delta) for kind, told in told_by_kind(answered).items()}
    kinds = {kind: one.scaling for kind, one in found.items() if one.scaling}
    if not kinds:
        reasons = (f"{kind}: {one.reason}" for kind, one in found.items())
        raise NotPossible("\n".join(["no kind of answers was calibrated", *reasons]))
    case_set = {**what, "inquiries": len(answered), "alpha": alpha, "delta": delta}
    case_set["date"] = f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"
    snapshot = pipeline.index.snapshot if pipeline.index else ""
    bindings = Bindings(model.digest, model.prompt_version, snapshot, LABELLER_VERSION)
    with transaction(settings.database()) as session:
        scalings.add(session, bindings, task, ScalingOfTask(kinds, case_set))
    return found


def told_by_kind(answered: Sequence[Answered]) -> dict[str, list[Told]]:
    """Return the answers that were told, by kind."""
    found: dict[str, list[Told]] = defaultdict(list)
    for one in answered:
        result = one.answer
        if result.cannot_tell or result.confidence is None:
            continue
        figures: Any = result.provenance["calibration"]
        if not isinstance(result, Diagnosis):
            # Of a study with several parts the kinds may differ: the first is that of most answers.
            found[next(iter(figures.values()))["kind"]].append(Told(result.confidence, one.right))
        elif figures["kind"] == diagnosing.SEVERAL:
            found[diagnosing.SEVERAL] += [
                Told(option.probability, option.label in one.inquiry.right) for option in result.options
            ]
        else:
            found[diagnosing.ONE].append(_choice(one, result))
    return dict(found)


def _choice(one: Answered, result: Diagnosis) -> Told:
    labels = [*(option.label for option in result.options), NONE_OF_THESE]
    shares = [*(option.probability for option in result.options), result.none_of_these or 0.0]
    right = next((number for number, label in enumerate(labels) if label in one.inquiry.right), len(labels) - 1)
    return Told(result.confidence or 0.0, one.right, shares, right)


def lines(found: Mapping[str, Fitted]) -> list[str]:
    """Return a sentence for each kind of answers."""
    return [
        f"{kind}: not calibrated: {one.reason}"
        if one.scaling is None
        else f"{kind}: slope {one.scaling.slope:.3f}, offset {one.scaling.offset:.3f}, limit"
        f" {one.scaling.min_confidence:.2f}"
        for kind, one in found.items()
    ]
