"""Put questions about phantoms into words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from worker.phantoms import question_words as words
from worker.phantoms.cases import SIDES
from worker.phantoms.wordings import PLURAL, WITHOUT_ARTICLE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

T = TypeVar("T")
#: Share of named subjects, beside invented ones, among the nonsense of the training.
NAMED_NONSENSE = 0.4
#: Share of questions of the training whose words are in a random order, and of these with an unknown word.
SCATTERED, UNKNOWN_AMONG_THEM = 0.25, 0.3


@dataclass(frozen=True, slots=True)
class Phrasing:
    """Draws the words of questions, from those of the training or those held out."""

    rng: np.random.Generator
    held_out: bool = False

    def subject(self) -> str:
        """Return a word that the vocabulary does not have; in training often one without any meaning."""
        if self.held_out or self.rng.random() < NAMED_NONSENSE:
            return self.one_of(words.NONSENSE)
        return " ".join(self.invented() for _ in range(int(self.rng.integers(1, 3))))

    def invented(self) -> str:
        """Return an invented word of one to four syllables."""
        consonants, vowels = "bcdfghjklmnpqrstvwxz", "aeiouy"
        count = int(self.rng.integers(1, 5))
        pairs = "".join(self.pick(consonants) + self.pick(vowels) for _ in range(count))
        return pairs + (self.pick(consonants) if count == 1 or self.rng.integers(2) else "")

    def pick(self, options: Sequence[T]) -> T:
        """Return one of *options*."""
        return options[int(self.rng.integers(len(options)))]

    def one_of(self, frames: words.Frames) -> str:
        """Return a wording of the own set."""
        return self.pick(frames.held_out if self.held_out else frames.trained)

    def noun(self, name: str) -> tuple[str, str]:
        """Return a noun of a finding and its article with a blank, empty if it has none."""
        noun = self.pick((name, name, *words.SYNONYMS.get(name, ())))
        without = name in WITHOUT_ARTICLE and not noun.startswith(("enlarged", "inflammatory"))
        bare = without or _is_plural(name, noun) or noun == "pleural fluid"
        return noun, "" if bare else "an " if noun[0] in "aeiou" else "a "

    def phrased(self, frames: words.Frames, noun: str, article: str, **more: str) -> str:
        """Return a question about *noun*; *more* are further values of its placeholders."""
        plural = article == "" and noun.endswith(("s", "drusen")) and not noun.endswith(("sis", "lus"))
        side, other = self.rng.permutation(SIDES)
        values = {"side": str(side), "other": str(other), **more}
        values |= {"noun": noun, "article": article, "a": article + noun, "A": capital(article + noun)}
        values |= {"be": "are" if plural else "is", "Be": "Are" if plural else "Is"}
        values |= {"Side": capital(values["side"]), "plural": noun if noun.endswith("s") else f"{noun}s"}
        return self.one_of(frames).format(**values)

    def worded(self, frames: words.Frames, name: str, **more: str) -> str:
        """Return a question about the finding *name*."""
        return self.phrased(frames, *self.noun(name), **more)

    def asked(self, frames: words.Frames, noun: str, article: str) -> str:
        """Return a question about *noun*, in training sometimes in random words with a cue of *frames*."""
        if self.is_scattered():
            return self.scattered(article + noun, words.CUES.get(frames, ()))
        return self.phrased(frames, noun, article)

    def is_scattered(self) -> bool:
        """Return whether to put the next question into random words."""
        return not self.held_out and self.rng.random() < SCATTERED

    def scattered(self, subject: str, cues: Sequence[str] = ()) -> str:
        """Return *subject* and one of *cues* among random words, one of them sometimes unknown."""
        before, after = self._common(1, 6), self._common(0, 4)
        if self.rng.random() < UNKNOWN_AMONG_THEM:
            before.insert(int(self.rng.integers(len(before))), self.invented())
        if cues:
            around = before if self.rng.integers(2) else after
            around.insert(int(self.rng.integers(len(around) + 1)), self.pick(cues))
        return f"{capital(' '.join([*before, subject, *after]))}?"

    def noisy(self, text: str) -> str:
        """Return *text* with some random words between its own."""
        own = text.split(" ")
        for word in self._common(1, 4):
            own.insert(int(self.rng.integers(len(own))), word)
        return " ".join(own)

    def _common(self, least: int, most: int) -> list[str]:
        return [self.pick(words.COMMON.split()) for _ in range(int(self.rng.integers(least, most)))]


def capital(text: str) -> str:
    """Return *text* with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def _is_plural(name: str, noun: str) -> bool:
    return name in PLURAL or noun == "enlarged ventricles"
