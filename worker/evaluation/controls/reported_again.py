"""Controls of written findings: each study of a run is reported again with another prompt, and judged as before.

- Exchanged cases: the study quotes the cases of another study of its group, under the similarities of its own. A
  finding of those cases alone that is shown as fact was copied from them.
- Without images: the images are replaced by the mean of the group's other images, the quoted cases stay. A finding
  that was shown as fact and is written again, in words that are no less probable, was not read in the images.
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
from worker.evaluation.sentence_figures import is_right
from worker.findings.labeller import Label, present
from worker.grounding.checks.contradictions import GENERIC

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from concurrent.futures import Future

    import numpy.typing as npt

    from db.reports.versions import Draft, Shown
    from worker.model.engine.request import Generation, Request
    from worker.model.port import Model
    from worker.pipeline.pipeline import Pipeline, StudyToReport
    from worker.pipeline.study_reader import ReadReports

#: Pixels on a side of a mean image.
SIDE = 256
#: A log-probability falls if it is lower by more than this; less is the noise of another image.
MIN_FALL = 0.05
#: A study that cannot be reported again affirms nothing.
_FAILURES = (NotReportable, TransientFailure, PermanentFailure)


@dataclass(frozen=True, slots=True)
class _Reported:
    """A study of the run, the labels that its reference affirms, its quoted cases and the findings shown as fact."""

    study: StudyToReport
    group: str
    wanted: Collection[Label]
    quoted: Sequence[str]
    shown: Mapping[Label, float]


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
    """The studies of a run, to be reported again when it has ended."""

    def __init__(self) -> None:
        self._reported: list[_Reported] = []
        self._means: dict[str, _Mean] = defaultdict(_Mean)

    def add(self, study: StudyToReport, reference: str, draft: Draft) -> None:
        """Keep a reported study and its *reference* report."""
        group, quoted = draft.provenance["modality"], [case.excerpt for case in draft.evidence]
        self._reported.append(_Reported(study, group, present(reference), quoted, _affirmed(draft, shown=True)))
        for image in draft.images:
            self._means[group].add(image)

    def figures(self, pipeline: Pipeline) -> dict[str, float]:
        """Report all studies again with *pipeline* in both ways; nan where nothing could be counted."""
        told = affirmed = shown = 0
        for number, one in enumerate(track(self._reported, "exchanged cases")):
            donor, foreign = self._donor(number)
            draft = _again(replace(pipeline, read_reports=_texts_of(donor)), one.study) if foreign else None
            told += len(foreign)
            affirmed += _count(foreign, _affirmed(draft, shown=False))
            shown += _count(foreign, _affirmed(draft, shown=True))
        facts = sum(len(one.shown) for one in self._reported)
        again = [self._without_images(one, pipeline) for one in track(self._reported, "without images")]
        return {
            "findings that only exchanged cases have": told,
            "of these affirmed": _share(affirmed, told),
            "swap test: of these shown as fact": _share(shown, told),
            "findings shown as fact": facts,
            "of these written without the images": _share(sum(map(len, again)), facts),
            "copy index: of these as probable as with them": _share(sum(map(sum, again)), facts),
        }

    def _donor(self, number: int) -> tuple[Sequence[str], set[Label]]:
        """Return the cases of the next study of the group that have findings which a study lacks, and these findings.

        Without findings if there is none, or if the study itself quotes no case.
        """
        one = self._reported[number]
        others = (*self._reported[number + 1 :], *self._reported[:number])
        donors = [other.quoted for other in others if other.group == one.group] if one.quoted else []
        found = ((quoted, _foreign(one, quoted)) for quoted in donors)
        return next(((quoted, foreign) for quoted, foreign in found if foreign), ((), set()))

    def _without_images(self, one: _Reported, pipeline: Pipeline) -> list[bool]:
        """Return for each finding shown as fact that is written again without the images if it is as probable."""
        if not one.shown:
            return []
        blind = _WithoutImages(pipeline.model, self._means[one.group])
        again = _affirmed(_again(replace(pipeline, model=cast("Model", blind)), one.study), shown=False)
        # The same finding, on the same side where both tell one.
        pairs = {label: [again[other] for other in again if is_right(label, [other])] for label in one.shown}
        return [max(found) >= one.shown[label] - MIN_FALL for label, found in pairs.items() if found]


def _foreign(one: _Reported, quoted: Sequence[str]) -> set[Label]:
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
