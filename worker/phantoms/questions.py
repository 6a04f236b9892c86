"""Questions with short answers, and diagnoses as multiple choice, about a case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.phantoms.cases import CATALOGUE, UNCLASSIFIED

if TYPE_CHECKING:
    import numpy as np

    from worker.phantoms.cases import Case

NORMAL = "normal"
OPTIONS = 4
#: Shares of questions about a side, if a finding has one, and about normality.
SIDE_SHARE, NORMAL_SHARE = 0.4, 0.15


def ask(case: Case, rng: np.random.Generator) -> tuple[str, str]:
    """Return a random question about *case* and its answer."""
    sided = [finding for finding in case.findings if finding.side]
    if sided and rng.random() < SIDE_SHARE:
        finding = sided[int(rng.integers(len(sided)))]
        if sum(other.name == finding.name for other in case.findings) == 1:
            return f"On which side is the {finding.name}?", f"{finding.side.capitalize()}."
    present = {finding.name for finding in case.findings}
    if rng.random() < NORMAL_SHARE:
        return "Is the image normal?", "No." if present or case.distractor else "Yes."
    kinds = [kind.name for kind in CATALOGUE[case.image]]
    asked = str(rng.choice(sorted(present & set(kinds)) or kinds)) if rng.integers(2) else str(rng.choice(kinds))
    return f"Is there {asked}?", "Yes." if asked in present else "No."


def choose(case: Case, rng: np.random.Generator) -> tuple[list[str], str]:
    """Return options with exactly one correct diagnosis, and that diagnosis."""
    present = [finding.name for finding in case.findings] or [label(case)]
    answer = str(rng.choice(present))
    wrong = [kind.name for kind in CATALOGUE[case.image] if kind.name not in present]
    wrong += [NORMAL] if NORMAL not in present else []
    options = [answer, *(str(name) for name in rng.permutation(wrong)[: OPTIONS - 1])]
    return [str(option) for option in rng.permutation(options)], answer


def label(case: Case) -> str:
    """Return the diagnosis that labels a case."""
    if case.findings:
        return case.findings[0].name
    return UNCLASSIFIED if case.distractor else NORMAL
