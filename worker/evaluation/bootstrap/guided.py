"""Write the report of a study twice: with its confirmed findings in the prompt, and without them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from db.reports.versions import Quoted
from worker.images.study import StoredInstance
from worker.pipeline.pipeline import Pipeline, StudyToReport
from worker.prompting import wording
from worker.prompting.report import report_prompt
from worker.retrieval.case_files import files_of, owner_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from db.reports.versions import Draft
    from worker.evaluation.bootstrap.labelled_cases import LabelledCase
    from worker.findings.labeller import Label
    from worker.retrieval.case_files import Owner
    from worker.retrieval.retrieve import Retrieval

#: Similarity by which the model trusts the quoted statement most.
_SIMILARITY = 0.99
_GUIDE = uuid.UUID(int=0)


@dataclass(frozen=True, slots=True)
class _GuidedPipeline(Pipeline):
    """A pipeline that quotes one statement in place of the similar cases."""

    statement: str = ""

    def similar(self, retrieval: Retrieval) -> list[Quoted]:  # noqa: ARG002 - in place of what was retrieved
        """Return the statement as the only case; none if it is empty."""
        return [Quoted(_GUIDE, _SIMILARITY, self.statement)] if self.statement else []


class Drafts(NamedTuple):
    """The guided draft, the blind one, the owner of the study, and the prompt of a study without similar cases."""

    guided: Draft
    blind: Draft
    owner: Owner
    prompt: str


def drafts_of(pipeline: Pipeline, folder: Path, labelled: LabelledCase) -> Drafts:
    """Write both drafts of a case in *folder*; raises NotReportable and TransientFailure as `Pipeline.run`."""
    case = labelled.case
    instances, owner = [StoredInstance(*file) for file in files_of(folder, case)], owner_of(folder, case)
    study = StudyToReport(instances, case.modality, case.body_part, frozenset({owner.patient_hash}), owner.study_hash)
    guided = _GuidedPipeline(
        pipeline.model,
        pipeline.index,
        pipeline.read_reports,
        pipeline.settings,
        statement=statement(labelled.confirmed),
    ).run(study, lambda: None)
    # Only the order of the runs is free: the blind one has no word of the labels.
    blind = pipeline.run(study, lambda: None)
    part = guided.provenance["parts"][0]
    version = wording.version_of(pipeline.model.prompt_version)
    return Drafts(guided, blind, owner, report_prompt(part["modality"], part["body_part"], version=version))


def showing_all(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline without settings that withhold drafts: the filters judge them."""
    settings = pipeline.settings
    marked = settings.retrieval.model_copy(update={"not_validated": "mark"})
    unblocked = settings.model.model_copy(update={"blocking_checks": ()})
    return replace(pipeline, settings=settings.model_copy(update={"retrieval": marked, "model": unblocked}))


def statement(confirmed: Collection[Label]) -> str:
    """Return the confirmed findings as the impression of a report; empty without a finding."""
    words = [" ".join(filter(None, (one.size, one.side, _zone(one), one.finding))) for one in sorted(confirmed)]
    return "Impression: " + " ".join(f"{word.capitalize()}." for word in words) if words else ""


def _zone(label: Label) -> str:
    return f"{label.zone} zone" if label.zone else ""
