"""Texts whose words are the vocabulary of the demo checkpoint; the same for every seed.

Subjects that no phantom shows are left out: encoded as bytes, an unknown word is visible as one.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from worker.phantoms import choices, grammar, question_words, questions
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, UNCLASSIFIED, Case, Finding, draw_case, places
from worker.phantoms.question_words import Frames
from worker.prompting.diagnosis import Choice, Guidance, diagnosis_prompt
from worker.prompting.question import question_prompt
from worker.prompting.report import QuotedCase, SpecialistDraft, report_prompt
from worker.prompting.wording import CANNOT_TELL, NONE_OF_THESE
from worker.training.training_cases import MODALITY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from worker.prompting.wording import Version

#: Name of the specialist whose drafts are in the prompts of the training.
SPECIALIST = "R2GenGPT"
#: Random cases of each image type: neighbouring negations are joined in words that single findings do not need.
RANDOM_CASES = 60
#: Frames of subjects that no phantom shows.
_UNKNOWN = (question_words.ORGANS, question_words.ABOUT_ORGAN, question_words.NONSENSE, question_words.IRRELEVANT)
#: Words of the chat around a prompt, and certainties in quoted reports.
_CHAT = ("system\nAnswer the questions.", "user\n", "assistant\n", "possible probable")


def texts(version: Version) -> list[str]:
    """Return the texts for prompts of *version*: reports in every style, questions, choices, and all answers."""
    found = {grammar.NOT_DIAGNOSTIC, *_CHAT, *_questions(), *_names()}
    for image, (modality, part) in MODALITY.items():
        found.update(grammar.report(case, style) for case in _cases(image) for style in range(grammar.STYLES))
        quoted, draft = [QuotedCase("Normal.", 0.5)] * 3, SpecialistDraft(SPECIALIST, "Normal.")
        found.update(report_prompt(modality, p, quoted, draft=draft, version=version) for p in (part, ""))
        found.add(question_prompt(modality, "Normal?"))
        found.update(_choices(modality, part, version))
        found.update(f"{answer[0].upper()}{answer[1:]}." for answer in questions.IMAGES[image][0].split(" ", 1))
        found.add(f"{questions.IMAGES[image][1].capitalize()}. the {questions.IMAGES[image][1]}")
    return sorted(found)


def _cases(image: str) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    yield from (draw_case(rng, image) for _ in range(RANDOM_CASES))
    yield Case(image, 0, distractor=True)
    for kind in (*CATALOGUE[image], *(CHEST_RARE if image == "chest" else ())):
        for (name, side, zone), size in product(places(kind), kind.sizes or ("",)):
            yield Case(image, 0, (Finding(name, side, zone, size),))


def _known() -> list[str]:
    names = {kind.name for kinds in (*CATALOGUE.values(), CHEST_RARE) for kind in kinds}
    return sorted(names | {UNCLASSIFIED, choices.NORMAL, NONE_OF_THESE})


def _names() -> Iterator[str]:
    """Yield the names of all diagnoses as they stand in answers."""
    for name in _known():
        yield from (name, f"{name[0].upper()}{name[1:]}.", f"{name}, {name}")


def _choices(modality: str, part: str, version: Version) -> Iterator[str]:
    for name in _known():
        guidance = Guidance([name, name], [name, name])
        for several in (False, True):
            yield diagnosis_prompt(modality, part, Choice([name], several=several), guidance, version=version)
    yield diagnosis_prompt(modality, part, Choice(_known(), several=True), version=version)


def _questions() -> Iterator[str]:
    """Yield all frames with one noun, all nouns in one frame, and the short answers."""
    values = {"noun": "nodule", "a": "a nodule", "A": "A nodule", "article": "a ", "plural": "nodules", "part": "head"}
    values |= {"side": "left", "other": "right", "Side": "Left", "one": "few", "two": "numerous", "be": "is"}
    values |= {"list": "nodule, nodule", "list_or": "nodule or nodule"}
    frames = [each for each in vars(question_words).values() if isinstance(each, Frames) and each not in _UNKNOWN]
    for frame in (text for each in frames for text in (*each.trained, *each.held_out)):
        for text in (frame.format(**values, Be=verb) for verb in ("Is", "Are")):
            yield from (text, f" {text[0].lower()}{text[1:]}")
    yield from (f" {word}" for word in question_words.COMMON.split())
    for name in _known():
        for noun in (name, *question_words.SYNONYMS.get(name, ())):
            yield f"{noun[0].upper()}{noun[1:]}? An {noun}"
    yield from (f" {name}s?" for name in questions.COUNTED)
    sizes = sorted({size for kinds in CATALOGUE.values() for kind in kinds for size in kind.sizes})
    yield from (f"{size.capitalize()}. {size}" for size in (*sizes, "upper", "middle", "lower", "left", "right"))
    yield from (CANNOT_TELL, questions.YES, questions.NO, *questions.NUMBERS, "left-sided zone. No abnormality.")
