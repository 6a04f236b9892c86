"""Plant errors in correct reports and measure how many the labels and checks detect."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from worker.evaluation.sentence_figures import MAX_CACHED_TEXTS, contradictions
from worker.findings.abbreviations import CORRECTED
from worker.findings.labeller import labels, mentions_prior, sentences
from worker.findings.spelling import misspelled
from worker.grounding.checks.contradictions import GENERIC

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.findings.labeller import Sentence

_SWAP = {"left": "right", "right": "left"}
_RESIZE = {
    "small": "large",
    "large": "small",
    "mild": "marked",
    "marked": "mild",
    "few": "numerous",
    "numerous": "few",
}
_RELOCATE = {"upper": "lower", "lower": "upper", "apical": "basal", "basal": "apical"}
_DEVICES = {
    "pacemaker": "central venous line",
    "central venous line": "pacemaker",
    "central line": "tracheal tube",
    "tracheal tube": "central venous line",
    "endotracheal tube": "pacemaker",
    "spinal rods": "pacemaker",
    "spinal fixation rods": "pacemaker",
}
_HOMOPHONES = {"pleural": "plural", "heart": "hart", "seen": "scene", "right": "rite"}
_LENGTH = re.compile(r"\b(?P<number>\d+(?:\.\d+)?) ?(?P<unit>mm|cm)\b")
_PRIORS = (
    "Compared to the prior study there is no change.",
    "Unchanged since the previous examination.",
    "Again seen as on the prior film.",
)


def flip_negation(text: str, rng: np.random.Generator) -> str | None:
    """Affirm a negated finding."""
    choices = [*re.finditer(r"\b(?:There is no|There are no|No) (?=[a-z])", text)]
    if not choices:
        return None
    chosen = choices[int(rng.integers(len(choices)))]
    article = {"There is no ": "There is ", "There are no ": "There are ", "No ": "There is "}[chosen.group()]
    return text[: chosen.start()] + article + text[chosen.end() :]


def swap_side(text: str, _: np.random.Generator) -> str | None:
    """Exchange left and right throughout."""
    return _exchange(text, _SWAP)


def change_size(text: str, _: np.random.Generator) -> str | None:
    """Exchange sizes (small and large, mild and marked, few and numerous) throughout."""
    return _exchange(text, _RESIZE)


def _exchange(text: str, words: dict[str, str]) -> str | None:
    """Replace every key of *words* by its value; None if the text has no key."""

    def other(match: re.Match[str]) -> str:
        word = words[match.group().lower()]
        return word.capitalize() if match.group()[0].isupper() else word

    changed = re.sub(rf"\b(?:{'|'.join(words)})\b", other, text, flags=re.IGNORECASE)
    return changed if changed != text else None


def drop_finding(text: str, rng: np.random.Generator) -> str | None:
    """Remove the sentences that affirm a random finding."""
    affirmed = [label for label in labels(text) if label.certainty == "present"]
    if not affirmed:
        return None
    name = affirmed[int(rng.integers(len(affirmed)))].finding
    kept = [s for s in re.split(r"(?<=\.)\s+", text) if not _affirms(s, name)]
    return " ".join(kept)


def _affirms(sentence: str, name: str) -> bool:
    return any(label.finding == name and label.certainty == "present" for label in labels(sentence))


def invent_prior(text: str, rng: np.random.Generator) -> str | None:
    """Add a comparison with a prior examination that was not given."""
    sentence = _PRIORS[int(rng.integers(len(_PRIORS)))]
    return text.replace("Impression:", f"{sentence} Impression:", 1) if "Impression:" in text else f"{text} {sentence}"


def change_device(text: str, rng: np.random.Generator) -> str | None:
    """Replace the name of a device throughout."""
    named = [name for name in _DEVICES if re.search(rf"\b{name}\b", text, re.IGNORECASE)]
    if not named:
        return None
    name = named[int(rng.integers(len(named)))]
    return _exchange(text, {name: _DEVICES[name]})


def change_location(text: str, _: np.random.Generator) -> str | None:
    """Exchange upper and lower throughout."""
    return _exchange(text, _RELOCATE)


def change_measurement(text: str, _: np.random.Generator) -> str | None:
    """Write every length ten times as large."""
    changed = _LENGTH.sub(lambda match: f"{float(match['number']) * 10:g} {match['unit']}", text)
    return changed if changed != text else None


def repeat_sentence(text: str, rng: np.random.Generator) -> str | None:
    """Write a sentence of the findings twice."""
    stated = [s for s in sentences(text) if s.section == "findings" and s.mentions]
    if not stated:
        return None
    chosen = stated[int(rng.integers(len(stated)))]
    return f"{text[: chosen.end]} {chosen.text}{text[chosen.end :]}"


def contradict(text: str, rng: np.random.Generator) -> str | None:
    """Deny an affirmed finding in a sentence of its own, at the end of the findings."""
    affirmed = [label for label in labels(text) if label.certainty == "present" and label.finding not in GENERIC]
    if not affirmed:
        return None
    sentence = f"No {affirmed[int(rng.integers(len(affirmed)))].finding}."
    return text.replace("Impression:", f"{sentence} Impression:", 1) if "Impression:" in text else f"{text} {sentence}"


def write_homophone(text: str, _: np.random.Generator) -> str | None:
    """Replace words by others of the same sound."""
    return _exchange(text, _HOMOPHONES)


def misspell(text: str, rng: np.random.Generator) -> str | None:
    """Exchange two letters in the middle of a finding's name."""
    words = [*re.finditer(rf"\b(?:{'|'.join(sorted(CORRECTED))})\b", text)]
    if not words:
        return None
    word = words[int(rng.integers(len(words)))]
    middle = word.start() + len(word.group()) // 2
    exchanged = text[:middle] + text[middle + 1] + text[middle] + text[middle + 2 :]
    return exchanged if exchanged != text else None


ERRORS: dict[str, Callable[[str, np.random.Generator], str | None]] = {
    "negation flipped": flip_negation,
    "side swapped": swap_side,
    "size changed": change_size,
    "finding dropped": drop_finding,
    "prior invented": invent_prior,
    "device changed": change_device,
    "location changed": change_location,
    "measurement changed": change_measurement,
    "sentence repeated": repeat_sentence,
    "contradiction added": contradict,
    "homophone": write_homophone,
    "typing error": misspell,
}


def recall(reports: Sequence[str], *, seed: int = 0) -> dict[str, tuple[float, int]]:
    """Return, for each kind of error planted in *reports*, the share detected and the number planted."""
    rng = np.random.default_rng(seed)
    detected: dict[str, list[bool]] = {name: [] for name in ERRORS}
    for report in reports:
        for name, plant in ERRORS.items():
            erroneous = plant(report, rng)
            if erroneous is not None:
                detected[name].append(differs(report, erroneous))
    return {name: (float(np.mean(found)) if found else float("nan"), len(found)) for name, found in detected.items()}


def differs(reference: str, written: str) -> bool:
    """Return whether the labels, sizes included, or the checks of the two reports differ."""
    return _traits(reference) != _traits(written)


@lru_cache(maxsize=MAX_CACHED_TEXTS)
def _traits(text: str) -> tuple[object, ...]:
    """Return the properties of a report that a planted error changes: labels, and what the checks find."""
    read = sentences(text)
    affirmed = {m.label for sentence in read for m in sentence.mentions if m.label.certainty != "absent"}
    return affirmed, mentions_prior(text), _lengths(text), _repeated(read), contradictions(text), misspelled(text)


def _lengths(text: str) -> list[str]:
    return sorted(f"{match['number']} {match['unit']}" for match in _LENGTH.finditer(text))


def _repeated(read: Sequence[Sentence]) -> set[str]:
    """Return the sentences with a finding that a section holds twice."""
    counted = Counter((s.section, s.text.lower()) for s in read if s.mentions)
    return {words for (_, words), count in counted.items() if count > 1}
