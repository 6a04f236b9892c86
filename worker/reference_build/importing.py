"""Build the reference index of the configured checkpoint from files: images, patch tokens, rows and a snapshot."""

from __future__ import annotations

import dataclasses
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from db import reference
from db.answers import predictions
from db.errors import ConfigurationError, NotReportable, PermanentFailure, Reason, TransientFailure
from db.models import ReferenceCase
from db.reports.versions import texts
from db.session import transaction
from worker.findings.labeller import finding_names
from worker.images.study import StoredInstance, images_of
from worker.pipeline.pipeline import Pipeline, StudyToReport
from worker.reference_build.agreement import disagreements
from worker.reference_build.own_drafts import is_own_draft
from worker.reference_build.publishing import add, exclusive, new_directory, publish
from worker.retrieval.admission import cleaned
from worker.retrieval.build import EncodedCase, Steps, archived, build
from worker.retrieval.case_files import files_of, read_cases, study_of
from worker.retrieval.duplicates import digests_of, prints_of
from worker.retrieval.features import deep_layers
from worker.retrieval.perturbation import upside_down, views_of
from worker.retrieval.validation import held_out, kind_of, measured

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from db.settings import Settings
    from worker.model.port import ImageEncoder
    from worker.model.resident_model import ResidentModel
    from worker.retrieval.admission import Removed
    from worker.retrieval.archive import ArchivedCase
    from worker.retrieval.case_files import Case, CaseFile, Owner

    PatchTokens = Callable[[Sequence[npt.NDArray[Any]]], npt.NDArray[Any]]


class Imported(NamedTuple):
    """Number of indexed cases; a line for each exclusion, and for each text that was removed from a report."""

    indexed: int
    excluded: list[str]
    removed: list[str]


def build_reference(
    folder: Path, model: ResidentModel, settings: Settings, *, replace: bool = False, admit: bool = False
) -> Imported:
    """Index the cases of *folder* and make the snapshot the current one of *model*.

    A folder that was indexed before updates its rows. Raises ConfigurationError if no case could be indexed, or if the
    current index is larger and is not to be *replaced*. *admit*: although report and images disagree.
    """
    with exclusive(settings):
        if not replace:
            _check_size(folder, model.digest, settings)
        importing = _Import(folder, model, settings, admit=admit)
        directory = new_directory()
        steps = dataclasses.replace(importing.steps(), measure=lambda: importing.measure(model))
        indexed, excluded = build(folder, settings.operations.data_dir / directory, steps, model_digest=model.digest)
        publish(settings, directory, model.digest)
    return Imported(indexed, excluded + importing.set_aside, importing.removed)


def import_reference(
    folder: Path,
    model: ImageEncoder,
    settings: Settings,
    *,
    names: Collection[str] = (),
    readmit: bool = False,
    admit: bool = False,
) -> Imported:
    """Add the cases of *folder*, or those with *names*, to the current index of *model*.

    Raises ConfigurationError if there is no index, or no case with such a name. *readmit*: although they were erased;
    *admit*: although report and images disagree.
    """
    cases = chosen_cases(folder, names)
    with exclusive(settings):
        importing = _Import(folder, model, settings, readmit=readmit, admit=admit)
        added, excluded, steps = [], list[str](), importing.steps()
        for case in cases:
            try:
                added.append(archived(folder, case, steps))
            except NotReportable as problem:
                excluded.append(f"{case.case_id}: {problem.detail}")
        if added:
            add(settings, model.digest, added, steps.disagreeing)
    return Imported(len(added) - len(importing.set_aside), excluded + importing.set_aside, importing.removed)


def chosen_cases(folder: Path, names: Collection[str]) -> list[Case]:
    """Return the cases of *folder* with *names*, or all; raises ConfigurationError if there is none with a name."""
    cases = [case for case in read_cases(folder) if not names or case.case_id in names]
    if missing := set(names) - {case.case_id for case in cases}:
        raise ConfigurationError(f"no case {', '.join(sorted(missing))} in {folder}")
    return cases


def removals(folder: Path) -> list[str]:
    """Return a line for each text that an import of *folder* would remove."""
    return [line for case in read_cases(folder) for line in _removals(case, cleaned(case.report).removed)]


def _removals(case: Case, removed: Sequence[Removed]) -> list[str]:
    return [f"{case.case_id}: {reason}: {text}" for reason, text in removed]


def _check_size(folder: Path, model_digest: str, settings: Settings) -> None:
    with transaction(settings.database()) as session:
        current = reference.current_snapshot(session, model_digest)
    found = len(read_cases(folder))
    if current is not None and current.cases > found:
        raise ConfigurationError(
            f"the current index has {current.cases} cases, {folder} only {found}: add them with `prelim index import`,"
            " or replace the index with `prelim index build --replace`"
        )


class _Import:
    """The steps of an import from a folder, and what was removed from its reports."""

    def __init__(
        self, folder: Path, model: ImageEncoder, settings: Settings, *, readmit: bool = False, admit: bool = False
    ) -> None:
        self._folder = folder
        self._model = model
        self._settings = settings
        self._readmit = readmit
        self._admit = admit
        self.removed: list[str] = []
        #: A line for each case whose report and images disagree.
        self.set_aside: list[str] = []
        #: Kind and patient of each stored case, by id.
        self._stored: dict[str, tuple[Case, str, str]] = {}

    def steps(self) -> Steps:
        """Return the steps of a build, which measures nothing."""
        encode = case_encoder(self._model.patch_tokens, images_per_case=self._settings.model.images_per_study)
        return Steps(encode, finding_names, self._store, self._clean, self._disagreeing)

    def _clean(self, case: Case) -> Case:
        report, removed = cleaned(case.report)
        self.removed += _removals(case, removed)
        return dataclasses.replace(case, report=report)

    def _store(self, case: Case, encoded: EncodedCase, owner: Owner) -> uuid.UUID:
        row = ReferenceCase(
            source=self._folder.name,
            source_case=case.case_id,
            modality=case.modality or encoded.modality,
            body_part=case.body_part or encoded.body_part,
            patient_hash=owner.patient_hash,
            study_hash=owner.study_hash,
            report=case.report,
            # Not read yet: grounding will compare a report's findings with them.
            labels=case.labels,
        )
        known = {*reference.fingerprints_of(row), *encoded.digests}
        study = "" if self._admit else study_of(self._folder, case)
        with transaction(self._settings.database()) as session:
            if not self._admit and is_own_draft(case.report, texts(session, study)):
                raise NotReportable(Reason.OWN_DRAFT, "the report is a draft of this system, unchanged or nearly so")
            if not self._admit and is_own_draft(case.report, predictions.draft_texts(session, study)):
                problem = "the report is a draft of a specialist model, unchanged or nearly so"
                raise NotReportable(Reason.OWN_DRAFT, problem)
            if self._readmit:
                reference.readmit(session, known)
            if reference.erased(session, {*known, owner.patient_hash}):
                raise NotReportable(Reason.ERASED_CASE, "this case, its patient or its images were erased")
            case_id = reference.add_case(session, row)
        kind = kind_of(row.modality, encoded.body_part)
        self._stored[str(case_id)] = (case, kind, owner.patient_hash or case.case_id)
        return case_id

    def _disagreeing(self, cases: Iterable[ArchivedCase]) -> dict[str, str]:
        found = {} if self._admit else disagreements(cases)
        own = {case_id: reason for case_id, reason in found.items() if case_id in self._stored}
        self.set_aside += [f"{self._stored.pop(case_id)[0].case_id}: {reason}" for case_id, reason in own.items()]
        return own

    def measure(self, model: ResidentModel) -> dict[str, Any]:
        """Measure how well *model* reads each kind of case, without similar cases."""
        stored = list(self._stored.values())
        _, kinds, owners = zip(*stored, strict=True) if stored else ((), (), ())
        chosen = held_out(kinds, owners, self._settings.retrieval.validation_cases)
        marked = self._settings.retrieval.model_copy(update={"not_validated": "mark"})
        settings = self._settings.model_copy(update={"retrieval": marked})
        pipeline = Pipeline(model, None, lambda _: {}, settings)
        # As many at once as the engine has slots.
        with ThreadPoolExecutor(self._settings.queue.worker_slots) as threads:
            texts = list(threads.map(lambda number: self._text(pipeline, stored[number][0]), chosen))
        pairs = [(stored[number], text) for number, text in zip(chosen, texts, strict=True) if text is not None]
        results = measured((kind, case.report, text) for (case, kind, _), text in pairs)
        return {"validation": {kind: result.figures() for kind, result in results.items()}}

    def _text(self, pipeline: Pipeline, case: Case) -> str | None:
        instances = [StoredInstance(*file) for file in files_of(self._folder, case)]
        try:
            draft = pipeline.run(StudyToReport(instances, case.modality, case.body_part), lambda: None)
        except (NotReportable, PermanentFailure, TransientFailure):
            return None
        return f"Findings: {draft.findings} Impression: {draft.impression}"


def case_encoder(patch_tokens: PatchTokens, *, images_per_case: int) -> Callable[[Sequence[CaseFile]], EncodedCase]:
    """Return a function that selects and renders the images of a case and encodes them with *patch_tokens*."""

    def encode(files: Sequence[CaseFile]) -> EncodedCase:
        study = images_of([StoredInstance(*file) for file in files], budget=images_per_case)
        images = [image.pixels for image in study.images]
        # The same views in every build of the case.
        seed = zlib.crc32("".join(file.sop_instance_uid for file in files).encode())
        views = views_of(images, seed)
        upright, turned = (deep_layers(patch_tokens(each)) for each in (views, upside_down(views)))
        return EncodedCase(
            patch_tokens(images),
            upright,
            turned,
            prints_of(images),
            digests_of(images),
            study.modality,
            study.body_part,
        )

    return encode
