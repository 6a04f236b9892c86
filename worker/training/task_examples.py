"""Examples of the short tasks: questions, and choices between diagnoses with right and wrong guidance.

Guidance is the diagnoses of similar cases and of specialist models. When the image is clear, the model must keep its
answer against unanimous wrong guidance; when it is not, guidance is more often right than wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.phantoms import choices
from worker.phantoms.questions import Asker
from worker.prompting.diagnosis import Choice, Guidance, diagnosis_prompt
from worker.prompting.question import question_prompt
from worker.prompting.wording import CANNOT_TELL, NONE_OF_THESE
from worker.training.language import Example
from worker.training.training_cases import MODALITY, case_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from worker.phantoms.cases import Case
    from worker.prompting.wording import Version
    from worker.training.reference_set import ReferenceSet
    from worker.training.training_cases import Sample

#: Most labels of similar cases in a prompt: GSCo's.
MAX_LABELS = 10


@dataclass(frozen=True, slots=True)
class TaskMix:
    """Shares of the kinds of guidance: labels of the nearest cases, of these with one wrong; all wrong; all right."""

    nearest: float = 0.35
    one_wrong: float = 0.3
    all_wrong: float = 0.14
    all_right: float = 0.12
    #: Share with specialists, and the accuracy of each.
    specialists: float = 0.3
    accuracy: float = 0.75
    #: Share of choices in which several options may be right.
    several: float = 0.1
    #: Share of wrong labels that are all the same, and of those from the options.
    unanimous: float = 0.7
    offered: float = 0.7


class TaskExamples:
    """Draws examples of both tasks about samples of a pool."""

    def __init__(
        self, reference_sets: Mapping[str, ReferenceSet], rng: np.random.Generator, version: Version, mix: TaskMix
    ) -> None:
        self._reference_sets, self._rng, self._version, self._mix = reference_sets, rng, version, mix
        self._asker = Asker(rng)

    def question(self, sample: Sample) -> Example:
        """Return a question about the images of a sample."""
        asked = self._asker.ask(case_of(sample))
        return Example(sample.rows, question_prompt(MODALITY[sample.family][0], asked.text), asked.answer)

    def diagnosis(self, number: int, sample: Sample) -> Example:
        """Return a choice between diagnoses of a sample, which is number *number* of its pool."""
        case, several = case_of(sample), self._rng.random() < self._mix.several
        drawn = choices.choose_several(case, self._rng) if several else choices.choose(case, self._rng)
        guidance = Guidance(self._labels(number, sample, drawn), self._specialists(case))
        prompt = diagnosis_prompt(
            *MODALITY[sample.family], Choice(drawn.options, several=several), guidance, version=self._version
        )
        return Example(sample.rows, prompt, ", ".join(drawn.answers))

    def unanswerable(self, sample: Sample, family: str, case: Case) -> Example:
        """Return a question or a choice about *case*, of *family*, with images that do not show it."""
        if self._rng.integers(2):
            asked = self._asker.ask(case)
            return Example(sample.rows, question_prompt(MODALITY[family][0], asked.text), CANNOT_TELL)
        options = choices.choose(case, self._rng).options
        prompt = diagnosis_prompt(*MODALITY[family], Choice(options), version=self._version)
        return Example(sample.rows, prompt, NONE_OF_THESE)

    def _labels(self, number: int, sample: Sample, drawn: choices.DrawnChoice) -> list[str]:
        case, mix, chance = case_of(sample), self._mix, self._rng.random()
        count = int(self._rng.integers(1, MAX_LABELS + 1))
        if chance < mix.all_wrong:
            return self._wrong(case, drawn, count)
        if chance < mix.all_wrong + mix.all_right:
            return [str(self._rng.choice(choices.diagnoses(case)))] * count
        if chance < mix.all_wrong + mix.all_right + mix.nearest:
            labels = self._reference_sets[sample.family].labels(number, count, self._rng)
            if self._rng.random() < mix.one_wrong:
                labels[int(self._rng.integers(len(labels)))] = self._wrong(case, drawn, 1)[0]
            return labels
        return []

    def _wrong(self, case: Case, drawn: choices.DrawnChoice, count: int) -> list[str]:
        among = drawn.options if self._rng.random() < self._mix.offered else ()
        if self._rng.random() < self._mix.unanimous:
            return [choices.wrong_label(case, self._rng, among)] * count
        return [choices.wrong_label(case, self._rng, among) for _ in range(count)]

    def _specialists(self, case: Case) -> list[str]:
        if self._rng.random() >= self._mix.specialists:
            return []
        return choices.specialists(case, self._rng, accuracy=self._mix.accuracy)
