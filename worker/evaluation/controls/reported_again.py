"""Controls of written findings: each study of a run is reported again with another prompt, and judged as before.

- Exchanged cases: the study quotes the cases of another study of its group, under the similarities of its own. A
  finding of those cases alone that is shown as fact was copied from them.
- Without images: the images are replaced by the mean of the group's other images, the quoted cases stay. A finding
  that was shown as fact and is written again, in words that are no less probable, was not read in the images.
- Another study's text: the model writes the report of another study of the group. Its wrong findings should be marked.
- A wrong sentence: the study's own text with a sentence of that report that is wrong here.
- Halvings: of half of the studies the report with exchanged cases, of the others their own.
"""

from __future__ import annotations

import io
import math
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image
from rich.progress import track

from db.errors import NotReportable, PermanentFailure, TransientFailure
from db.reports.grounds import is_flagged
from worker.evaluation.controls.halvings import halvings
from worker.evaluation.controls.remembered import Remembered
from worker.evaluation.controls.told_texts import Telling, wrong_sentence
from worker.evaluation.grounding_figures import GroundedReport, marks, wrong_statements
from worker.evaluation.sentence_figures import is_right
from worker.findings.labeller import Label, present
from worker.grounding.calibration import judged_findings
from worker.grounding.checks.contradictions import GENERIC

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from db.reports.versions import Draft, Shown
    from worker.grounding.calibration import JudgedFinding
    from worker.model.engine.request import Generation, Request
    from worker.model.port import Model
    from worker.pipeline.pipeline import Pipeline, StudyToReport
    from worker.pipeline.study_reader import ReadReports
    from worker.retrieval.retrieve import Index

#: Pixels on a side of a mean image.
SIDE = 256
#: A log-probability falls if it is lower by more than this; less is the noise of another image.
MIN_FALL = 0.05
#: Bound of the halvings, as `prelim calibrate` sets it.
ALPHA, DELTA = 0.05, 0.10
#: A study that cannot be reported again affirms nothing.
_FAILURES = (NotReportable, TransientFailure, PermanentFailure)


@dataclass(frozen=True, slots=True)
class _Reported:
    """A study of the run, its reference report, its quoted cases and its draft."""

    study: StudyToReport
    group: str
    reference: str
    quoted: Sequence[str]
    draft: Draft

    @property
    def wanted(self) -> Collection[Label]:
        """The labels that its reference affirms."""
        return present(self.reference)

    @property
    def shown(self) -> Mapping[Label, float]:
        """The findings shown as fact."""
        return _affirmed(self.draft, shown=True)


@dataclass(slots=True)
class _Mean:
    """Mean of the images of a group, SIDE pixels square."""

    count: int = 0
    total: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros((SIDE, SIDE, 3)))

    def add(self, image: Shown) -> None:
        """Add an image as it was stored."""
        with Image.open(io.BytesIO(image.png)) as stored:
            self.total += _small(stored.convert("RGB"))
        self.count += 1

    def without(self, images: Sequence[npt.NDArray[np.uint8]]) -> Image.Image:
        """Return the mean of the other images than *images*; an even grey if there is none."""
        others = self.count - len(images)
        if others < 1:
            return Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
        total = self.total - sum(_small(Image.fromarray(image)) for image in images)
        return Image.fromarray((total / others).clip(0, 255).round().astype(np.uint8))


def _small(image: Image.Image) -> npt.NDArray[np.float64]:
    return np.asarray(image.resize((SIDE, SIDE)), np.float64)


class _WithoutImages:
    """A model that is given the mean of other studies' images in place of each image of a request."""

    def __init__(self, model: Model, mean: _Mean) -> None:
        self._model = model
        self._mean = mean

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def submit(self, request: Request) -> Future[Generation]:
        """Submit *request* with mean images of the same sizes."""
        mean = self._mean.without(request.images)
        images = [np.asarray(mean.resize(image.shape[1::-1])) for image in request.images]
        return self._model.submit(replace(request, images=images))


class Controls:
    """The studies of a run, to be reported again when it has ended; *common* findings are in many reference cases."""

    def __init__(self, common: Collection[str] = ()) -> None:
        self._common = common
        self._reported: list[_Reported] = []
        self._means: dict[str, _Mean] = defaultdict(_Mean)
        self._counts = _Counts()

    def add(self, study: StudyToReport, reference: str, draft: Draft) -> None:
        """Keep a reported study and its *reference* report."""
        group, quoted = draft.provenance["modality"], [case.excerpt for case in draft.evidence]
        # Encoded images are large.
        self._reported.append(_Reported(study, group, reference, quoted, replace(draft, images=[])))
        for image in draft.images:
            self._means[group].add(image)

    def figures(self, pipeline: Pipeline) -> dict[str, float]:
        """Report all studies again with *pipeline* in each way; nan where nothing could be counted."""
        self._counts = _Counts()
        for number, one in enumerate(track(self._reported, "reported again")):
            again = _remembering(pipeline)
            exchanged = self._exchanged(number, again)
            self._counts.again += self._without_images(one, again)
            self._tell(number, again)
            # Every second study keeps its own cases.
            kept = exchanged if exchanged and number % 2 else one.draft
            self._counts.judged += _judged(str(number), kept, one.wanted, self._common)
        return self._counts.figures(sum(len(one.shown) for one in self._reported))

    def _others(self, number: int) -> Iterator[_Reported]:
        """Yield the other studies of the group, the next first."""
        others = (*self._reported[number + 1 :], *self._reported[:number])
        return (other for other in others if other.group == self._reported[number].group)

    def _exchanged(self, number: int, pipeline: Pipeline) -> Draft | None:
        """Report a study with the cases of the next one that has findings which it lacks; None if there is none."""
        one, counts = self._reported[number], self._counts
        donors = [other.quoted for other in self._others(number)] if one.quoted else []
        found = ((quoted, _only_quoted(one, quoted)) for quoted in donors)
        donor, labels = next(((quoted, labels) for quoted, labels in found if labels), ((), set[Label]()))
        draft = _again(replace(pipeline, read_reports=_texts_of(donor)), one.study) if labels else None
        counts.exchanged += len(labels)
        counts.exchanged_affirmed += _count(labels, _affirmed(draft, shown=False))
        counts.exchanged_shown += _count(labels, _affirmed(draft, shown=True))
        return draft

    def _without_images(self, one: _Reported, pipeline: Pipeline) -> list[bool]:
        """Return for each finding shown as fact that is written again without the images if it is as probable."""
        if not one.shown:
            return []
        blind = _WithoutImages(pipeline.model, self._means[one.group])
        again = _affirmed(_again(replace(pipeline, model=cast("Model", blind)), one.study), shown=False)
        # The same finding, on the same side where both tell one.
        pairs = {label: [again[other] for other in again if is_right(label, [other])] for label in one.shown}
        return [max(found) >= one.shown[label] - MIN_FALL for label, found in pairs.items() if found]

    def _tell(self, number: int, pipeline: Pipeline) -> None:
        """Report a study in the words of the next one whose report is wrong here, and with one of its sentences."""
        one = self._reported[number]
        told = ((other, wrong_sentence(other.reference, one.wanted)) for other in self._others(number))
        other, sentence = next(((other, sentence) for other, sentence in told if sentence), (None, ""))
        if other is None:
            return
        own = one.draft
        planted = f"Findings: {own.findings} {sentence} Impression: {own.impression}"
        for text, texts in ((other.reference, self._counts.other_texts), (planted, self._counts.planted)):
            draft = _again(replace(pipeline, model=cast("Model", Telling(pipeline.model, text))), one.study)
            if draft and draft.grounds and not draft.provenance["refused"]:
                texts.append(GroundedReport(draft.grounds, frozenset(one.wanted), one.quoted))


@dataclass(slots=True)
class _Counts:
    """Counts and findings of the controls of all studies."""

    exchanged: int = 0
    exchanged_affirmed: int = 0
    exchanged_shown: int = 0
    #: For each finding shown as fact that was written again without the images, if it was as probable.
    again: list[bool] = field(default_factory=list)
    other_texts: list[GroundedReport] = field(default_factory=list)
    planted: list[GroundedReport] = field(default_factory=list)
    judged: list[JudgedFinding] = field(default_factory=list)

    def figures(self, facts: int) -> dict[str, float]:
        """Return the figures; *facts* is the number of findings shown as fact with the studies' own images."""
        return {
            "findings that only exchanged cases have": self.exchanged,
            "of these affirmed": _share(self.exchanged_affirmed, self.exchanged),
            "swap test: of these shown as fact": _share(self.exchanged_shown, self.exchanged),
            "findings shown as fact": facts,
            "of these written without the images": _share(len(self.again), facts),
            "copy index: of these as probable as with them": _share(sum(self.again), facts),
            **_marks("another study's text", self.other_texts),
            **_marks("one wrong sentence", self.planted),
            **halvings(self.judged, alpha=ALPHA, delta=DELTA).figures(),
        }


def _marks(name: str, reports: Sequence[GroundedReport]) -> dict[str, float]:
    findings, sentences = wrong_statements(reports)
    counts = {f"{name}: wrong findings": findings, f"{name}: wrong sentences": sentences}
    return counts | {f"{name}: {figure}": share for figure, share in marks(reports).items()}


def _remembering(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline for the controls of one study, whose images are read and compared once."""
    model, index = Remembered(pipeline.model, {"patch_tokens"}), pipeline.index
    compared = Remembered(index, {"compare", "label_scores", "same_images", "search"}) if index else None
    return replace(pipeline, model=cast("Model", model), index=cast("Index | None", compared))


def _judged(study: str, draft: Draft, wanted: Collection[Label], common: Collection[str]) -> list[JudgedFinding]:
    stated = [one for sentence in draft.grounds.sentences for one in sentence.findings] if draft.grounds else []
    return judged_findings(study, stated, lambda f: is_right(Label(f.name, f.side, f.zone), wanted), common)


def _only_quoted(one: _Reported, quoted: Sequence[str]) -> set[Label]:
    """Return the findings of *quoted* reports, by name and side, that the reference of a study does not affirm."""
    told = (label for text in quoted for label in present(text) if label.finding not in GENERIC)
    return {Label(label.finding, label.side) for label in told if not is_right(label, one.wanted)}


def _texts_of(quoted: Sequence[str]) -> ReadReports:
    """Return a function that gives the texts of *quoted*, by rank, for those of any other cases."""
    return lambda case_ids: dict(zip(case_ids, quoted, strict=False))


def _again(pipeline: Pipeline, study: StudyToReport) -> Draft | None:
    try:
        # No lease to extend.
        return pipeline.run(study, lambda: None)
    except _FAILURES:
        return None


def _affirmed(draft: Draft | None, *, shown: bool) -> dict[Label, float]:
    """Return the findings that a draft affirms, by name and side, with the highest log-probability of their words.

    *shown*: only those that are not flagged.
    """
    grounds = draft.grounds if draft else None
    stated = [finding for sentence in grounds.sentences for finding in sentence.findings] if grounds else []
    found: dict[Label, float] = {}
    for one in stated:
        flagged = shown and is_flagged(one.certainty, one.verdict, one.cited)
        if one.certainty == "present" and one.name not in GENERIC and not flagged:
            label = Label(one.name, one.side)
            found[label] = max(found.get(label, -math.inf), -math.inf if one.log_prob is None else one.log_prob)
    return found


def _count(labels: Collection[Label], affirmed: Collection[Label]) -> int:
    """Return the number of *labels* that are affirmed, on the same side where both tell one."""
    return sum(is_right(label, affirmed) for label in labels)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
