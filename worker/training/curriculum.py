"""Examples for the language model: reports, questions and diagnoses, with similar, wrong or no reference cases.

The shares decide the result. With similar cases only, the model learns to copy them; with too many wrong cases, to
ignore them. Rare findings are oversampled only with reference cases in the prompt, similar or wrong. In three of ten
prompts with similar cases, the names of rare findings are exchanged in the cases and in the answer: the model must
detect a rare finding in the image and take its name from a similar case. If no case in the prompt has the finding, the
answer is "unclassified abnormality". Under its own name, without cases, a rare finding is as frequent as in the pool,
unless the mix has more: a short training that continues a checkpoint would forget the names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from worker.findings.labeller import present
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, draw_finding, unclassified, with_names
from worker.phantoms.draw.negatives import UPSIDE_DOWN
from worker.prompting.quoting import quotation
from worker.prompting.report import QuotedCase, SpecialistDraft, report_prompt
from worker.training.language import Example
from worker.training.task_examples import TaskExamples, TaskMix
from worker.training.training_cases import MODALITY, NEGATIVE, RARE, Pool, case_of
from worker.training.vocabulary import SPECIALIST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from worker.phantoms.cases import Case
    from worker.prompting import wording
    from worker.prompting.quoting import Quotation
    from worker.training.reference_set import ReferenceSet

#: Rare findings with and without a side: a sentence without a side cannot take the name of a finding with one.
SIDED, UNSIDED = (tuple(kind.name for kind in CHEST_RARE if kind.sided == sided) for sided in (True, False))
#: The other modality of the same body part.
_HEADS = {"ct": "mr", "mr": "ct"}
#: Shares of given findings that are those of another case, and of altered findings that are left out.
OTHER_CASE, DROPPED = 0.3, 0.3
#: Reports whose labels and quotations are kept: all forms of a reference set.
MAX_CACHED_REPORTS = 65_536
#: Shares of one, two and three similar cases in a prompt.
_CASE_COUNTS = (0.08, 0.08, 0.84)


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the kinds of examples."""

    #: Shares of all examples: images that do not show the prompt's family; questions; diagnoses.
    rejected: float = 0.08
    question: float = 0.22
    diagnosis: float = 0.18
    #: Share of questions and diagnoses among rejected images.
    rejected_tasks: float = 0.25
    #: Examples of a group: questions, diagnoses. They share the images, which are the longest part of a prompt.
    questions: int = 8
    diagnoses: int = 3
    #: Share of reports beside which the impression is learnt from other findings, and the number of these.
    consistency: float = 0.4
    given: int = 2
    #: Share of reports of common cases with the draft of a specialist, and of wrong ones among these.
    draft: float = 0.08
    wrong_draft: float = 0.4
    #: Shares of reports: without cases, and with wrong cases; the others have similar cases.
    without_cases: float = 0.30
    wrong_cases: float = 0.19
    #: Share of chests with a rare finding, added to those of the pool, among reports without cases.
    rare_alone: float = 0.0
    #: Share of chests with wrong cases that have rare cases; share of wrong cases with the similarities of the nearest.
    wrong_rare: float = 0.5
    disguised: float = 0.5
    #: Share of unlabelled chests among those with similar cases; shares of these with a distractor and no rare finding,
    #: and with the names of rare findings exchanged.
    unlabelled: float = 0.25
    distractor: float = 0.25
    exchanged: float = 0.3
    #: Share of unlabelled chests among those with wrong cases.
    wrong_unlabelled: float = 0.5
    #: Share of all prompts without the body part, which headers often omit.
    no_body_part: float = 0.05
    #: Share of negatives among rejected images; share of these from the prompt's family, upside down.
    negative: float = 0.5
    upside_down: float = 0.4
    #: Share of heads in the other modality among images of another family, if the prompt names a head.
    other_head: float = 0.7
    tasks: TaskMix = field(default_factory=TaskMix)


class Curriculum:
    """Endless examples from a pool.

    *reference_sets* has one for each family of the pool's cases; *version* is that of the prompts' wording; *names*
    draws the exchanged names of rare findings.
    """

    def __init__(
        self,
        pool: Pool,
        reference_sets: dict[str, ReferenceSet],
        *,
        seed: int,
        chest_share: float,
        mix: Mix,
        version: wording.Version,
        names: Callable[[np.random.Generator], Mapping[str, str]] | None = None,
    ) -> None:
        self._pool, self._reference_sets, self._mix, self._version = pool, reference_sets, mix, version
        self._names = names or exchanged_names
        self._rng = np.random.default_rng((seed, 3))
        self._tasks = TaskExamples(reference_sets, self._rng, version, mix.tasks)
        self._by_rows = {sample.rows: sample for sample in pool.samples}
        self._by_family = {family: pool.of(family) for family in {sample.family for sample in pool.samples}}
        self._rare = [number for number in self._by_family["chest"] if pool.samples[number].rare]
        self._unlabelled = [number for number in self._by_family["chest"] if pool.samples[number].unlabelled]
        self._distractors = [number for number in self._unlabelled if not pool.samples[number].rare]
        self._upside_down = {
            name: [n for n in self._by_family[NEGATIVE] if pool.samples[n].negative == name]
            for name in UPSIDE_DOWN.values()
        }
        others = sum(family not in {"chest", NEGATIVE} for family in self._by_family)
        self._shares = {
            f: chest_share if f == "chest" else (1 - chest_share) / others for f in self._by_family if f != NEGATIVE
        }

    def batch(self, size: int) -> list[Sequence[Example]]:
        """Return groups of examples of one family; those of a group have the same images."""
        family = str(self._rng.choice(list(self._shares), p=list(self._shares.values())))
        return [self._group(family) for _ in range(size)]

    def _group(self, family: str) -> Sequence[Example]:
        chance, mix = self._rng.random(), self._mix
        if chance < mix.rejected:
            return [self._rejected(family)]
        number = self._any(family)
        sample = self._pool.samples[number]
        if chance < mix.rejected + mix.question:
            return [self._tasks.question(sample) for _ in range(mix.questions)]
        if chance < mix.rejected + mix.question + mix.diagnosis:
            return [self._tasks.diagnosis(number, sample) for _ in range(mix.diagnoses)]
        report = self._report(family)
        altered = self._rng.random() < mix.consistency
        return [report, *(self._with_given_findings(report, sample.family) for _ in range(mix.given * altered))]

    def _any(self, family: str) -> int:
        return int(self._rng.choice(self._by_family[family]))

    def _report(self, family: str) -> Example:
        chance, mix = self._rng.random(), self._mix
        if chance < mix.wrong_cases:
            return self._with_wrong_cases(family)
        if chance < mix.wrong_cases + mix.without_cases:
            rare = family == "chest" and self._rng.random() < mix.rare_alone
            return self._as_quoted(int(self._rng.choice(self._rare)) if rare else self._any(family), [])
        if chance < mix.wrong_cases + mix.without_cases + mix.draft:
            return self._with_draft(family)
        return self._with_similar_cases(family)

    def _with_similar_cases(self, family: str) -> Example:
        mix, reference_set = self._mix, self._reference_sets[family]
        number = self._any(family)
        count = int(self._rng.choice([1, 2, 3], p=_CASE_COUNTS))
        if family != "chest" or self._rng.random() >= mix.unlabelled:
            return self._as_quoted(number, reference_set.quote_nearest(number)[:count])
        distractor = self._distractors and self._rng.random() < mix.distractor
        number = int(self._rng.choice(self._distractors if distractor else self._rare))
        cases = reference_set.quote_nearest(number)[:count]
        if self._rng.random() >= mix.exchanged:
            return self._as_quoted(number, cases)
        # Matched by their original names: two findings may share an exchanged one.
        names = self._names(self._rng)
        case = with_names(_as_named(case_of(self._pool.samples[number]), cases), names)
        return self._written(number, case, reference_set.quote_nearest(number, names)[:count])

    def _with_wrong_cases(self, family: str) -> Example:
        mix = self._mix
        unlabelled = family == "chest" and self._rng.random() < mix.wrong_unlabelled
        number = int(self._rng.choice(self._unlabelled)) if unlabelled else self._any(family)
        rare = family == "chest" and self._rng.random() < mix.wrong_rare
        disguised = self._rng.random() < mix.disguised
        cases = self._reference_sets[family].quote_wrong(number, self._rng, rare=rare, disguised=disguised)
        return self._as_quoted(number, cases)

    def _with_draft(self, family: str) -> Example:
        """Return a report with a specialist's draft, right or that of another case, beside similar cases or none."""
        mix, reference_set = self._mix, self._reference_sets[family]
        number = next(n for n in iter(lambda: self._any(family), None) if not self._pool.samples[n].unlabelled)
        other = self._any(family) if self._rng.random() < mix.wrong_draft else number
        draft = SpecialistDraft(SPECIALIST, grammar.write(case_of(self._pool.samples[other]), self._rng))
        cases = reference_set.quote_nearest(number) if self._rng.integers(2) else []
        return self._written(number, case_of(self._pool.samples[number]), cases, draft)

    def _with_given_findings(self, report: Example, family: str) -> Example:
        """Return the example *report* with the findings of a similar case given; only the impression is learnt.

        Trained on true reports alone, the impression is read from the images a second time, with other errors.
        """
        case = case_of(self._by_rows[tuple(report.images)])
        written = grammar.write(_altered(case, case_of(self._pool.samples[self._any(family)]), self._rng), self._rng)
        findings, impression = written.split(" Impression:")
        return replace(report, given=findings, answer=f" Impression:{impression}")

    def _as_quoted(self, number: int, cases: Sequence[QuotedCase]) -> Example:
        """Return a sample's report; with *cases* in the prompt, it names a rare finding only if one of them has it."""
        case = case_of(self._pool.samples[number])
        return self._written(number, _as_named(case, cases) if cases else case, cases)

    def _written(
        self, number: int, case: Case, cases: Sequence[QuotedCase], draft: SpecialistDraft | None = None
    ) -> Example:
        sample = self._pool.samples[number]
        return Example(sample.rows, self._prompt(sample.family, cases, draft), grammar.write(case, self._rng))

    def _prompt(self, family: str, cases: Sequence[QuotedCase], draft: SpecialistDraft | None = None) -> str:
        modality, part = MODALITY[family]
        named = "" if self._rng.random() < self._mix.no_body_part else part
        return report_prompt(modality, named, cases, draft=draft, version=self._version, quote=_quotation)

    def _rejected(self, family: str) -> Example:
        """Answer "not diagnostic" for a negative or an image of another family, half of the time with random cases.

        Some are asked a question, or given a choice, about a case of *family*.
        """
        sample = self._pool.samples[self._not_of(family)]
        reference_set = self._reference_sets[family]
        if self._rng.random() < self._mix.rejected_tasks:
            case = case_of(self._pool.samples[self._any(family)])
            return self._tasks.unanswerable(sample, family, case)
        cases = reference_set.quote_random(self._rng) if self._rng.integers(2) else []
        return Example(sample.rows, self._prompt(family, cases), grammar.NOT_DIAGNOSTIC)

    def _not_of(self, family: str) -> int:
        """Return the index of a negative or of a sample of another family."""
        chance, mix = self._rng.random(), self._mix
        if self._rng.random() < mix.negative:
            own = self._upside_down.get(UPSIDE_DOWN.get(family, ""), [])
            return int(self._rng.choice(own)) if own and chance < mix.upside_down else self._any(NEGATIVE)
        if family in _HEADS and chance < mix.other_head:
            return self._any(_HEADS[family])
        return self._any(str(self._rng.choice([other for other in self._by_family if other not in {family, NEGATIVE}])))


def exchanged_names(rng: np.random.Generator) -> dict[str, str]:
    """Return a random name for each rare finding, possibly its own, so that the image does not determine it."""
    names = dict(zip(UNSIDED, map(str, rng.permutation(UNSIDED)), strict=True))
    return names | {name: str(rng.choice(UNSIDED)) for name in SIDED if rng.integers(2)}


def _altered(case: Case, other: Case, rng: np.random.Generator) -> Case:
    """Return *case* with another finding, size, side or zone, or *other*."""
    kinds = {kind.name: kind for kind in CATALOGUE[case.image]}
    known = [place for place, finding in enumerate(case.findings) if finding.name in kinds]
    if not known or rng.random() < OTHER_CASE:
        return other
    place = int(rng.choice(known))
    old = case.findings[place]
    drawn = draw_finding(rng, kinds[old.name])
    kept = [] if rng.random() < DROPPED else [drawn]
    return replace(case, findings=(*case.findings[:place], *kept, *case.findings[place + 1 :]))


def _as_named(case: Case, quoted: Sequence[QuotedCase]) -> Case:
    """Return the case with rare findings unclassified unless a quoted report affirms them."""
    affirmed = set().union(*(_affirmed(one.report) for one in quoted))
    return unclassified(case, set(RARE) - affirmed)


# Each reference report is quoted some twenty times; reading one takes four milliseconds.
@lru_cache(maxsize=MAX_CACHED_REPORTS)
def _affirmed(report: str) -> frozenset[str]:
    return frozenset(label.finding for label in present(report))


@lru_cache(maxsize=MAX_CACHED_REPORTS)
def _quotation(report: str) -> Quotation:
    return quotation(report)
