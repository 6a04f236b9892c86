"""What the language model is asked while it learns: the three tasks, with none, some and wrong retrieved cases.

How often which neighbours come decides what is learnt. Only good ones teach to obey them; too many wrong ones teach to
ignore them. Rare findings are oversampled only beside cases, their own nearest or wrong ones. Beside their nearest,
three in ten go by each other's names, in the neighbours' reports and in the answer: the image tells that something
rare is there, and a neighbour's word what it is called. Where no case beside it shows it, the answer is that it is not
classified. Under its own name without neighbours a rare finding is met as often as nature has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from worker.findings.labeller import present
from worker.phantoms import grammar, questions
from worker.phantoms.cases import CHEST_RARE, renamed, unclassified
from worker.phantoms.draw.negatives import ON_ITS_HEAD
from worker.prompting import wording
from worker.prompting.report import QuotedCase, report_prompt
from worker.training.samples import JUNK, RARE, Pool, case_of
from worker.training.training import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.phantoms.cases import Case
    from worker.training.reference_set import Shelf

MODALITY = {
    "chest": ("DX", "CHEST"),
    "ct": ("CT", "HEAD"),
    "mr": ("MR", "HEAD"),
    "retina": ("OP", "EYE"),
    "skin": ("XC", "SKIN"),
    "endoscopy": ("ES", "COLON"),
    "pathology": ("SM", "COLON"),
}

#: Rare findings with a side and without: the sentence of one without a side cannot take the name of one with a side.
SIDED, UNSIDED = (tuple(kind.name for kind in CHEST_RARE if kind.sided == sided) for sided in (True, False))
#: The other modality of the same part of the body.
_HEADS = {"ct": "mr", "mr": "ct"}


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of the episodes."""

    #: Of all: images that are none, or of another kind than the prompt says.
    junk: float = 0.08
    question: float = 0.08
    diagnosis: float = 0.08
    #: Of reports: with no neighbours, and with wrong ones; the others get their own.
    alone: float = 0.30
    wrong: float = 0.19
    #: Of the wrong ones of a chest: three reports with rare findings; of all: under the similarities of the nearest.
    wrong_rare: float = 0.5
    disguised: float = 0.5
    #: How often a chest without a common name is drawn beside its own neighbours; how many of these show an odd object
    #: and nothing rare; and how often rare findings go by each other's names there.
    nameless: float = 0.25
    odd: float = 0.25
    exchanged: float = 0.3
    #: Of the wrong ones of a chest: how often it shows something rare, or without a name.
    doubted: float = 0.5
    #: Of all prompts: without the part of the body, which headers often leave out.
    unnamed: float = 0.05
    #: Of refused images: junk, not another kind of image; of junk: of the kind the prompt says, on its head.
    not_a_image: float = 0.5
    on_its_head: float = 0.4
    #: Of other kinds of image beside a head: the head of the other modality.
    other_head: float = 0.7
    #: Of diagnoses: with no labels of neighbours, and with wrong ones.
    unlabelled: float = 0.4
    mislabelled: float = 0.1


class Curriculum:
    """Endless examples from a pool; *shelves* hold, for each family, the reference cases and who is near to whom."""

    def __init__(self, pool: Pool, shelves: dict[str, Shelf], *, seed: int, about_chests: float, mix: Mix) -> None:
        self._pool, self._shelves, self._mix = pool, shelves, mix
        self._rng = np.random.default_rng((seed, 3))
        self._by_family = {family: pool.of(family) for family in {item.family for item in pool.items}}
        self._rare = [number for number in self._by_family["chest"] if pool.items[number].rare]
        self._nameless = [number for number in self._by_family["chest"] if pool.items[number].nameless]
        self._odd = [number for number in self._nameless if not pool.items[number].rare]
        self._junk = {
            name: [n for n in self._by_family[JUNK] if pool.items[n].junk == name] for name in ON_ITS_HEAD.values()
        }
        others = sum(family not in {"chest", JUNK} for family in self._by_family)
        self._chance = {
            f: about_chests if f == "chest" else (1 - about_chests) / others for f in self._by_family if f != JUNK
        }

    def batch(self, size: int) -> list[Example]:
        """Examples of one kind of image."""
        family = str(self._rng.choice(list(self._chance), p=list(self._chance.values())))
        return [self._one(family) for _ in range(size)]

    def _one(self, family: str) -> Example:
        chance, mix = self._rng.random(), self._mix
        if chance < mix.junk:
            return self._refused(family)
        if chance < mix.junk + mix.question:
            return self._question(self._any(family))
        if chance < mix.junk + mix.question + mix.diagnosis:
            return self._diagnosis(self._any(family))
        return self._report(family)

    def _any(self, family: str) -> int:
        return int(self._rng.choice(self._by_family[family]))

    def _report(self, family: str) -> Example:
        chance, mix = self._rng.random(), self._mix
        if chance < mix.wrong:
            return self._beside_wrong_ones(family)
        if chance < mix.wrong + mix.alone:
            return self._told(self._any(family), [])
        return self._beside_its_own(family)

    def _beside_its_own(self, family: str) -> Example:
        mix, shelf = self._mix, self._shelves[family]
        number = self._any(family)
        count = int(self._rng.choice([1, 2, 3], p=[0.08, 0.08, 0.84]))
        if family != "chest" or self._rng.random() >= mix.nameless:
            return self._told(number, shelf.near(number)[:count])
        odd = self._odd and self._rng.random() < mix.odd
        number = int(self._rng.choice(self._odd if odd else self._rare))
        cases = shelf.near(number)[:count]
        if self._rng.random() >= mix.exchanged:
            return self._told(number, cases)
        # Whether they are like the image is asked by their own names: by the others two may share one.
        names = self._exchanged()
        case = renamed(_as_named(case_of(self._pool.items[number]), cases), names)
        return self._written(number, case, shelf.near(number, names)[:count])

    def _beside_wrong_ones(self, family: str) -> Example:
        mix = self._mix
        doubted = family == "chest" and self._rng.random() < mix.doubted
        number = int(self._rng.choice(self._nameless)) if doubted else self._any(family)
        rare = family == "chest" and self._rng.random() < mix.wrong_rare
        disguised = self._rng.random() < mix.disguised
        cases = self._shelves[family].wrong(number, self._rng, rare=rare, disguised=disguised)
        return self._told(number, cases)

    def _told(self, number: int, cases: Sequence[QuotedCase]) -> Example:
        """The report of an item; beside *cases* its rare findings are named only if they do."""
        case = case_of(self._pool.items[number])
        return self._written(number, _as_named(case, cases) if cases else case, cases)

    def _written(self, number: int, case: Case, cases: Sequence[QuotedCase]) -> Example:
        item = self._pool.items[number]
        return Example(item.rows, self._prompt(item.family, cases), grammar.write(case, self._rng))

    def _exchanged(self) -> dict[str, str]:
        """A name for each rare finding: any, its own too, so that the image does not tell which."""
        names = dict(zip(UNSIDED, map(str, self._rng.permutation(UNSIDED)), strict=True))
        others = {name: str(self._rng.choice(UNSIDED)) for name in SIDED if self._rng.integers(2)}
        return names | others

    def _prompt(self, family: str, cases: Sequence[QuotedCase]) -> str:
        modality, part = MODALITY[family]
        return report_prompt(modality, "" if self._rng.random() < self._mix.unnamed else part, cases)

    def _refused(self, family: str) -> Example:
        """Junk, or an image of another kind than the prompt says, often with neighbours that tempt."""
        item = self._pool.items[self._none_of(family)]
        shelf = self._shelves[family]
        cases = shelf.any(self._rng) if self._rng.integers(2) else []
        return Example(item.rows, self._prompt(family, cases), grammar.NOT_DIAGNOSTIC)

    def _none_of(self, family: str) -> int:
        """Junk, or an image of another kind, by number."""
        chance, mix = self._rng.random(), self._mix
        if self._rng.random() < mix.not_a_image:
            own = self._junk.get(ON_ITS_HEAD.get(family, ""), [])
            return int(self._rng.choice(own)) if own and chance < mix.on_its_head else self._any(JUNK)
        if family in _HEADS and chance < mix.other_head:
            return self._any(_HEADS[family])
        return self._any(str(self._rng.choice([other for other in self._by_family if other not in {family, JUNK}])))

    def _question(self, number: int) -> Example:
        item = self._pool.items[number]
        asked, answer = questions.ask(case_of(item), self._rng)
        return Example(item.rows, wording.question(MODALITY[item.family][0], asked), answer)

    def _diagnosis(self, number: int) -> Example:
        item = self._pool.items[number]
        shelf = self._shelves[item.family]
        options, answer = questions.choose(case_of(item), self._rng)
        chance, mix = self._rng.random(), self._mix
        known = chance > mix.unlabelled
        labels = shelf.labels(number, self._rng, wrong=chance > 1 - mix.mislabelled) if known else []
        return Example(item.rows, wording.diagnosis(*MODALITY[item.family], options, labels), answer)


def _as_named(case: Case, quoted: Sequence[QuotedCase]) -> Case:
    """The case with those of its rare findings unclassified that no quoted report affirms."""
    affirmed = {label.finding for one in quoted for label in present(one.report)}
    return unclassified(case, set(RARE) - affirmed)
