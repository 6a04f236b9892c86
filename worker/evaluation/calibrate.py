"""`prelim calibrate`: bound the error of shown findings on cases with known reports, and certify it.

A worker's way from DICOM files to the verdicts, with the configured checkpoint, its current index and no certificate.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import track
from rich.table import Table

from db import reference
from db.answers import scalings
from db.errors import ConfigurationError, NotPossible, NotReportable, PermanentFailure, TransientFailure
from db.reports import certificates
from db.reports.certificates import Certificate
from db.session import reading, transaction
from db.states import JobKind
from worker.evaluation.controls.halvings import Halvings, halvings
from worker.evaluation.sentence_figures import is_right
from worker.findings.labeller import Label, finding_names, present
from worker.grounding.calibration import MIN_COMMON_CASES, JudgedFinding, binomial_tail, certify, judged_findings
from worker.images.study import StoredInstance
from worker.phantoms.datasets import write_calibration_cases
from worker.pipeline.pipeline import StudyToReport
from worker.resident import Resident, bindings_of, loaded
from worker.retrieval.case_files import files_of, owner_of, read_cases

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from db.reports.grounds import Grounds
    from db.settings import Settings
    from worker.model.resident_model import ResidentModel
    from worker.pipeline.pipeline import Pipeline
    from worker.retrieval.case_files import Case

#: Probability below which a share of wrong studies is called higher than alpha.
SIGNIFICANT = 0.05
#: A case that cannot be reported shows no finding.
_FAILURES = (NotReportable, TransientFailure, PermanentFailure)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A new certificate, the halvings of its set, and the cases that could not be reported."""

    certificate: Certificate
    halvings: Halvings
    failed: Sequence[str]


def calibrate_on_phantoms(settings: Settings, *, count: int, seed: int, alpha: float, delta: float) -> Calibrated:
    """Certify the configured checkpoint on *count* fresh phantoms; see `certified`."""
    with tempfile.TemporaryDirectory() as folder:
        write_calibration_cases(Path(folder), count=count, seed=seed)
        what = {"kind": "phantoms", "seed": seed, "where": "synthetic studies"}
        with loaded(settings) as model:
            return certified(model, settings, Path(folder), what, alpha=alpha, delta=delta)


def calibrate_on_cases(settings: Settings, folder: Path, *, alpha: float, delta: float) -> Calibrated:
    """Certify the configured checkpoint on the cases of *folder*; see `certified`."""
    what = {"kind": "finals", "where": folder.resolve().name}
    with loaded(settings) as model:
        return certified(model, settings, folder, what, alpha=alpha, delta=delta)


def certified(
    model: ResidentModel, settings: Settings, folder: Path, what: Mapping[str, Any], *, alpha: float, delta: float
) -> Calibrated:
    """Certify *model* with its current index on the cases of *folder*, and store the certificate; *what* names the set.

    Raises ConfigurationError if folder or index cannot be used, NotPossible if no group of findings can be certified:
    the set is too small, or too many findings are wrong.
    """
    cases, pipeline = _unknown(settings, folder), Resident(model, settings).pipeline()
    if pipeline.index is None:
        raise ConfigurationError("this checkpoint has no reference index yet: build one with `prelim index build`")
    common = _common(settings)
    reported = {case.case_id: _grounds(pipeline, folder, case) for case in track(cases, "cases")}
    judged = [one for case in cases for one in judge(case, reported[case.case_id], common)]
    certificate = Certificate(
        bindings_of(pipeline.model, pipeline.index),
        alpha,
        delta,
        dict(what) | {"studies": len(cases), "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"},
        certify(judged, alpha=alpha, delta=delta),
        common,
    )
    if not any(group.margin is not None for group in certificate.groups.values()):
        raise NotPossible("\n".join(["no certificate was made:", *refusals(certificate)]))
    with transaction(settings.database()) as session:
        certificates.add(session, certificate)
    failed = [case_id for case_id, grounds in reported.items() if grounds is None]
    return Calibrated(certificate, halvings(judged, alpha=alpha, delta=delta), failed)


def suspend(settings: Settings, task: JobKind, because: str) -> int:
    """Suspend all certificates of reports, or all scalings of answers to *task*; return how many were valid."""
    with transaction(settings.database()) as session:
        if task is JobKind.REPORT:
            return certificates.suspend(session, because)
        return scalings.suspend(session, task, because)


def _unknown(settings: Settings, folder: Path) -> list[Case]:
    """Return the cases of patients that are not in the reference index: it knows the labels of the others."""
    with reading(settings.database()) as session:
        known = reference.owners(session)
    cases = [case for case in read_cases(folder) if not known & set(owner_of(folder, case))]
    if not cases:
        raise ConfigurationError(f"all cases of {folder} are of patients in the reference index: take other patients")
    return cases


def refusals(certificate: Certificate) -> Iterator[str]:
    """Yield a sentence for each group of findings that a set could not certify."""
    for name, group in certificate.groups.items():
        if group.margin is not None:
            continue
        counted = f"{name} findings: shown in {group.studies} studies, wrong in {group.wrong_studies} of them"
        # As many wrong ones, or more, would be improbable if the error were alpha.
        if 1 - binomial_tail(group.wrong_studies - 1, group.studies, certificate.alpha) < SIGNIFICANT:
            yield f"{counted}; that is more than {certificate.alpha:.0%}, and a larger set would not help"
        else:
            yield f"{counted}; at least {group.missing} more findings are missing, each of another study"


def table(certificate: Certificate) -> Table:
    """Return the figures of a certificate as a table."""
    title = (
        f"error of shown findings at most {certificate.alpha:.0%}, exceeded with probability {certificate.delta:.0%}"
    )
    result = Table(title=title)
    for column in ("findings", "affirmed", "shown", "wrong", "studies", "wrong studies", "bound", "margin"):
        result.add_column(column, justify="right")
    for name, group in certificate.groups.items():
        margin = "not certified" if group.margin is None else f"{group.margin:.2f}"
        counts = (group.affirmed, group.shown, group.wrong, group.studies, group.wrong_studies)
        result.add_row(name, *map(str, counts), f"{group.bound:.3f}", margin)
    return result


def _common(settings: Settings) -> list[str]:
    with reading(settings.database()) as session:
        return common_findings(reference.reports(session))


def common_findings(reports: Iterable[str]) -> list[str]:
    """Return the findings that enough reference cases have."""
    counts = Counter(name for report in reports for name in _names(report))
    return sorted(name for name, count in counts.items() if count >= MIN_COMMON_CASES)


def _names(report: str) -> set[str]:
    return {label.rpartition(" ")[0] for label in finding_names(report)}


def _grounds(pipeline: Pipeline, folder: Path, case: Case) -> Grounds | None:
    """Return the grounds of the report on a case; None if it cannot be reported."""
    instances = [StoredInstance(*file) for file in files_of(folder, case)]
    patient, own_study = owner_of(folder, case)
    study = StudyToReport(instances, case.modality, case.body_part, frozenset({patient}), own_study)
    try:
        # No lease to extend.
        return pipeline.run(study, lambda: None).grounds
    except _FAILURES:
        return None


def judge(case: Case, grounds: Grounds | None, common: Collection[str]) -> list[JudgedFinding]:
    """Compare the affirmed findings of a written report with the case's own report."""
    wanted = present(case.report)
    stated = [finding for sentence in grounds.sentences for finding in sentence.findings] if grounds else []
    return judged_findings(case.case_id, stated, lambda f: is_right(Label(f.name, f.side, f.zone), wanted), common)
