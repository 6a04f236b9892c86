"""A site whose images the demo checkpoint cannot read: what a reader sees beside its false reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import structlog

from db.reports.grounds import is_flagged
from db.settings import Settings
from deploy.demo.demo import CHECKPOINT
from tests.grounding.other_chests import write_chests
from worker.evaluation.sentence_figures import is_right
from worker.findings.labeller import Label, present
from worker.images.study import StoredInstance
from worker.model.resident_model import ResidentModel
from worker.pipeline.pipeline import StudyToReport
from worker.reference_build.importing import build_reference
from worker.resident import Resident
from worker.retrieval.case_files import files_of, owner_of, read_cases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.reports.versions import Draft

log = structlog.get_logger()

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
ARCHIVE, NEW = 48, 24


@pytest.fixture(scope="module")
def model() -> Iterator[ResidentModel]:
    model = ResidentModel.load(CHECKPOINT, device="cpu")
    yield model
    model.close()


def written(model: ResidentModel, settings: Settings, folder: Path) -> list[tuple[Draft, frozenset[Label]]]:
    """The drafts on new studies of the site, and what their own reports affirm."""
    pipeline, drafts = Resident(model, settings).pipeline(), []
    for case in read_cases(folder):
        patient, study_hash = owner_of(folder, case)
        instances = [StoredInstance(*file) for file in files_of(folder, case)]
        study = StudyToReport(instances, case.modality, case.body_part, frozenset({patient}), study_hash)
        drafts.append((pipeline.run(study, lambda: None), frozenset(present(case.report))))
    return drafts


def is_false(draft: Draft, wanted: frozenset[Label]) -> bool:
    """Whether a draft affirms what is absent, or leaves a finding out."""
    told = present(f"{draft.findings} {draft.impression}")
    return any(not is_right(label, wanted) for label in told) or any(not is_right(label, told) for label in wanted)


def test_false_reports_of_a_site_that_the_model_cannot_read_are_marked(
    model: ResidentModel, database_url: str, tmp_path: Path
) -> None:
    write_chests(tmp_path / "archive", count=ARCHIVE, seed=11)
    write_chests(tmp_path / "new", count=NEW, seed=12)
    settings = Settings(data_dir=tmp_path / "data", database_url=database_url, device="cpu")
    build_reference(tmp_path / "archive", model, settings)

    drafts = written(model, settings, tmp_path / "new")

    false = [(draft, wanted) for draft, wanted in drafts if is_false(draft, wanted)]
    marked = [d for d, _ in false if d.provenance["refused"] or any("Not validated" in line for line in d.limitations)]
    found = [
        finding
        for draft, wanted in false
        for sentence in (draft.grounds.sentences if draft.grounds else [])
        for finding in sentence.findings
        if finding.certainty == "present" and not is_right(Label(finding.name, finding.side, finding.zone), wanted)
    ]
    flagged = [one for one in found if is_flagged(one.certainty, one.verdict, one.cited)]
    # With `-s`, for a record.
    log.info("reports.false", of=NEW, false=len(false), marked=len(marked), wrong=len(found), flagged=len(flagged))
    assert len(false) >= NEW // 2
    assert len(marked) >= 0.95 * len(false)
    assert len(flagged) >= 0.9 * len(found)
