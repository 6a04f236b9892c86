"""Questions about a case with their short answers: about findings that it has, has not, or cannot have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from worker.phantoms import question_words as words
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, FEW_MANY, SIDES, UNCLASSIFIED
from worker.phantoms.phrasing import Phrasing, capital
from worker.prompting.wording import CANNOT_TELL, NONE_OF_THESE

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from worker.phantoms.cases import Case, Finding, Kind

    Rng = np.random.Generator

#: "absent": a property of a finding that the image does not show; "unknown": what no image of its type shows.
QuestionKind = Literal[
    "presence", "side", "place", "size", "count", "which", "normal", "image", "open", "absent", "unknown"
]
YES, NO = "Yes.", "No."
NUMBERS = ("None.", "One.", "Two.", "Three.", "Four.")
#: Name of each type of image with its article, and of the part of the body.
IMAGES = {
    "chest": ("a chest x-ray", "chest"),
    "ct": ("a head CT", "head"),
    "mr": ("a head MRI", "head"),
    "retina": ("a retinography", "eye"),
    "skin": ("a dermatology image", "skin"),
    "endoscopy": ("an endoscopy", "colon"),
    "pathology": ("a pathology image", "colon"),
}


class Question(NamedTuple):
    """A question, its answer and its kind."""

    text: str
    answer: str
    kind: QuestionKind


class Asker(Phrasing):
    """Asks questions about cases in the wordings of the training, or in those held out."""

    def ask(self, case: Case) -> Question:
        """Return a random question about *case*."""
        kinds, shares = zip(*_SHARES, strict=True)
        question = kinds[int(self.rng.choice(len(kinds), p=shares))](self, case)
        return self.varied(question) if question else self.ask(case)

    def present(self, case: Case) -> Question:
        """Ask whether a finding is present, on a side or anywhere."""
        kinds = [kind.name for kind in CATALOGUE[case.image]]
        here = [finding.name for finding in case.findings if finding.name in kinds]
        name = self.pick(here) if here and self.rng.integers(2) else self.pick(kinds)
        if case.image == "chest" and not here and self.rng.random() < RARE_ASKED:
            return self._rare(case)
        found = next((finding for finding in case.findings if finding.name == name), None)
        kind = next(kind for kind in CATALOGUE[case.image] if kind.name == name)
        if kind.sided and self.rng.random() < SIDE_NAMED:
            side = self.pick(SIDES)
            right = found is not None and found.side == side
            text = self.worded(words.PRESENT_ON_SIDE, name, side=side)
            if self.is_scattered():
                text = self.scattered(f"{''.join(reversed(self.noun(name)))} on the {side}")
            return Question(text, YES if right else NO, "presence")
        return Question(self.asked(words.PRESENT, *self.noun(name)), YES if found else NO, "presence")

    def _rare(self, case: Case) -> Question:
        """Ask for a rare finding: an image cannot name it, but shows that there is none."""
        name = self.pick([kind.name for kind in CHEST_RARE])
        unlabelled = case.distractor or any(kind.name == f.name for kind in CHEST_RARE for f in case.findings)
        return Question(self.worded(words.PRESENT, name), CANNOT_TELL if unlabelled else NO, "presence")

    def side(self, case: Case) -> Question | None:
        """Ask for the side of a finding."""
        found = self._of(case, lambda finding: bool(finding.side))
        if not found:
            return None
        return Question(self.asked(words.SIDE, *self.noun(found.name)), f"{capital(found.side)}.", "side")

    def place(self, case: Case) -> Question | None:
        """Ask for the place or the zone of a finding."""
        found = self._of(case, lambda finding: bool(finding.side))
        if not found:
            return None
        if found.zone and self.rng.integers(2):
            return Question(self.asked(words.ZONE, *self.noun(found.name)), f"{capital(found.zone)} zone.", "place")
        where = f"{found.side} {found.zone} zone" if found.zone else found.side
        return Question(self.asked(words.PLACE, *self.noun(found.name)), f"{capital(where)}.", "place")

    def size(self, case: Case) -> Question | None:
        """Ask for the size of a finding."""
        found = self._of(case, lambda finding: bool(finding.size))
        return self._sized(case, found.name, f"{capital(found.size)}.", "size") if found else None

    def _sized(self, case: Case, name: str, answer: str, kind: QuestionKind) -> Question:
        sizes = next(known.sizes for known in CATALOGUE[case.image] if known.name == name)
        one, two = map(str, self.rng.permutation(sizes))
        frames = words.AMOUNT if sizes == FEW_MANY else words.SIZE
        return Question(self.worded(frames, name, one=one, two=two), answer, kind)

    def absent(self, case: Case) -> Question | None:
        """Ask for side, place or size of a finding that the image does not show."""
        absent = [kind for kind in CATALOGUE[case.image] if kind.name not in _names(case)]
        asks: list[tuple[words.Frames, Kind]] = []
        for kind in absent:
            asks += [(words.SIDE, kind), (words.SIDE, kind), (words.PLACE, kind)] if kind.sided else []
            asks += [(words.ZONE, kind)] if kind.zoned else []
            asks += [(words.SIZE, kind)] if kind.sizes else []
        if not asks:
            return None
        frames, kind = asks[int(self.rng.integers(len(asks)))]
        if frames is words.SIZE:
            return self._sized(case, kind.name, CANNOT_TELL, "absent")
        return Question(self.asked(frames, *self.noun(kind.name)), CANNOT_TELL, "absent")

    def count(self, case: Case) -> Question:
        """Ask for the number of findings, or of one of them."""
        if self.rng.integers(2):
            return Question(self.one_of(words.COUNT_ALL), NUMBERS[len(case.findings) + case.distractor], "count")
        names = _names(case)
        kinds = [kind.name for kind in CATALOGUE[case.image] if kind.name in COUNTED]
        if not kinds:
            return Question(self.one_of(words.COUNT_ALL), NUMBERS[len(case.findings) + case.distractor], "count")
        name = self.pick([one for one in kinds if one in names and self.rng.integers(2)] or kinds)
        text = self.asked(words.COUNT, name, "a ")
        return Question(text, NUMBERS[int(name in names)], "count")

    def which(self, case: Case) -> Question | None:
        """Ask which of some findings is present; none of them in two of five."""
        names = _names(case)
        kinds = [kind.name for kind in CATALOGUE[case.image]]
        absent = [str(name) for name in self.rng.permutation([name for name in kinds if name not in names])]
        here = [name for name in kinds if name in names]
        right = self.pick(here) if here and self.rng.random() > NONE_RIGHT else ""
        count = int(self.rng.integers(2, 5))
        listed = [*([right] if right else []), *absent][:count]
        if len(listed) < 2:  # noqa: PLR2004 - a choice has two
            return None
        listed = [str(name) for name in self.rng.permutation(listed)]
        values = {"list": ", ".join(listed), "list_or": f"{', '.join(listed[:-1])} or {listed[-1]}"}
        answer = right or NONE_OF_THESE
        text = self.one_of(words.WHICH).format(**values)
        if self.is_scattered():
            text = self.scattered(values[self.pick(("list", "list_or"))])
        return Question(text, f"{capital(answer)}.", "which")

    def normal(self, case: Case) -> Question:
        """Ask whether the image is normal, or abnormal."""
        is_normal = not case.findings and not case.distractor
        frames, answer = (words.NORMAL, is_normal) if self.rng.integers(2) else (words.ABNORMAL, not is_normal)
        return Question(self.one_of(frames), YES if answer else NO, "normal")

    def open(self, case: Case) -> Question:
        """Ask for all findings."""
        names = [finding.name for finding in case.findings] + ([UNCLASSIFIED] if case.distractor else [])
        return Question(self.one_of(words.OPEN), f"{capital(', '.join(names) or 'no abnormality')}.", "open")

    def image(self, case: Case) -> Question:
        """Ask for the type of image or the part of the body."""
        name, part = IMAGES[case.image]
        chance = self.rng.integers(3)
        if chance == 0:
            return Question(self.one_of(words.KIND_OF_IMAGE), f"{capital(name.split(' ', 1)[1])}.", "image")
        if chance == 1:
            return Question(self.one_of(words.BODY_PART), f"{capital(part)}.", "image")
        other = self.pick([case.image, *IMAGES])
        frame = self.one_of(words.IS_IMAGE)
        about_part = "{part}" in frame
        right = part == IMAGES[other][1] if about_part else other == case.image
        text = frame.format(a=IMAGES[other][0], part=IMAGES[other][1])
        if self.is_scattered():
            text = self.scattered(f"the {IMAGES[other][1]}" if about_part else IMAGES[other][0])
        return Question(text, YES if right else NO, "image")

    def unknown(self, case: Case) -> Question:
        """Ask for what no image of the type shows."""
        asks = (self._nonsense, self._of_another_image, self._of_another_organ, self._irrelevant)
        text = asks[int(self.rng.choice(len(asks), p=UNKNOWN_SHARES))](case)
        return Question(text, CANNOT_TELL, "unknown")

    def _nonsense(self, _: Case) -> str:
        subject = self.subject()
        frames = (words.PRESENT, words.SIDE, words.PRESENT_ON_SIDE, words.COUNT, words.PLACE)
        frame = frames[int(self.rng.choice(len(frames), p=NONSENSE_SHARES))]
        return self.asked(frame, subject, "an " if subject[0] in "aeiou" else "a ")

    def _of_another_image(self, case: Case) -> str:
        own = {kind.name for kind in CATALOGUE[case.image]}
        own |= {alike for name in own for alike in words.ALIKE.get(name, ())}
        others = sorted({kind.name for kinds in CATALOGUE.values() for kind in kinds} - own)
        return self.worded(self.pick((words.PRESENT, words.PRESENT, words.SIDE)), self.pick(others))

    def _of_another_organ(self, case: Case) -> str:
        noun, article = self.noun(self.pick([kind.name for kind in CATALOGUE[case.image]]))
        return self.one_of(words.ABOUT_ORGAN).format(organ=self.one_of(words.ORGANS), a=article + noun)

    def _irrelevant(self, _: Case) -> str:
        return self.one_of(words.IRRELEVANT)

    def varied(self, question: Question) -> Question:
        """Return the question with a preface, without its mark or with random words, in one of ten each."""
        text, chance = question.text, self.rng.random()
        if chance < VARIED:
            text = f"{self.one_of(words.PREFACES)} {text[0].lower()}{text[1:]}"
        elif chance < 2 * VARIED and not self.held_out:
            text = text.rstrip("?")
        elif chance < 3 * VARIED and not self.held_out:
            text = self.noisy(text)
        return question._replace(text=text)

    def _of(self, case: Case, fits: Callable[[Finding], bool]) -> Finding | None:
        own = {kind.name for kind in CATALOGUE[case.image]}
        found = [finding for finding in case.findings if finding.name in own and fits(finding)]
        return found[int(self.rng.integers(len(found)))] if found else None


#: Shares of questions about presence that name a side, that ask a chest without findings for a rare one; of choices
#: without a right one; of each variation.
SIDE_NAMED, RARE_ASKED, NONE_RIGHT, VARIED = 0.25, 0.15, 0.4, 0.1
#: Shares of the kinds of unknown subjects, and of the questions about nonsense: presence, side, presence on a side,
#: number, place.
UNKNOWN_SHARES = (0.5, 0.2, 0.15, 0.15)
NONSENSE_SHARES = (0.6, 0.15, 0.1, 0.05, 0.1)
#: Findings that can be counted in a question.
COUNTED = {"nodule", "rib fracture", "pacemaker", "tracheal tube", "infarct", "polyp", "ulcer"}
_SHARES: tuple[tuple[Callable[[Asker, Case], Question | None], float], ...] = (
    (Asker.present, 0.34),
    (Asker.side, 0.14),
    (Asker.place, 0.05),
    (Asker.size, 0.03),
    (Asker.absent, 0.12),
    (Asker.count, 0.05),
    (Asker.which, 0.06),
    (Asker.normal, 0.05),
    (Asker.open, 0.03),
    (Asker.image, 0.03),
    (Asker.unknown, 0.10),
)


def ask(case: Case, rng: Rng, *, held_out: bool = False) -> Question:
    """Return a random question about *case*; *held_out*: in a wording that the training does not have."""
    return Asker(rng, held_out).ask(case)


def _names(case: Case) -> set[str]:
    return {finding.name for finding in case.findings}
