"""Plant errors in correct reports and measure how many the labels and checks detect."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from worker.findings.labeller import Label, labels, mentions_prior

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SWAP = {"left": "right", "right": "left"}
_RESIZE = {
    "small": "large",
    "large": "small",
    "mild": "marked",
    "marked": "mild",
    "few": "numerous",
    "numerous": "few",
}
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


ERRORS: dict[str, Callable[[str, np.random.Generator], str | None]] = {
    "negation flipped": flip_negation,
    "side swapped": swap_side,
    "size changed": change_size,
    "finding dropped": drop_finding,
    "prior invented": invent_prior,
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
    return _affirmed(reference) != _affirmed(written) or mentions_prior(written) != mentions_prior(reference)


def _affirmed(text: str) -> set[Label]:
    return {label for label in labels(text) if label.certainty != "absent"}
