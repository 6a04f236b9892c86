"""Questions with short answers, and diagnoses to choose from, about a case."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.phantoms.cases import CATALOGUE, UNCLASSIFIED

if TYPE_CHECKING:
    import numpy as np

    from worker.phantoms.cases import Case

NORMAL = "normal"
OPTIONS = 4
#: How often a side is asked for where there is one, and whether the image is normal.
ASK_SIDE, ASK_NORMAL = 0.4, 0.15


def ask(case: Case, rng: np.random.Generator) -> tuple[str, str]:
    """A question about *case* and its answer."""
    sided = [finding for finding in case.findings if finding.side]
    if sided and rng.random() < ASK_SIDE:
        finding = sided[int(rng.integers(len(sided)))]
        if sum(other.name == finding.name for other in case.findings) == 1:
            return f"On which side is the {finding.name}?", f"{finding.side.capitalize()}."
    present = {finding.name for finding in case.findings}
    if rng.random() < ASK_NORMAL:
        return "Is the image normal?", "No." if present or case.odd else "Yes."
    kinds = [kind.name for kind in CATALOGUE[case.image]]
    asked = str(rng.choice(sorted(present & set(kinds)) or kinds)) if rng.integers(2) else str(rng.choice(kinds))
    return f"Is there {asked}?", "Yes." if asked in present else "No."


def choose(case: Case, rng: np.random.Generator) -> tuple[list[str], str]:
    """Diagnoses to choose from, only one of them right, and that one."""
    present = [finding.name for finding in case.findings] or [label(case)]
    answer = str(rng.choice(present))
    wrong = [kind.name for kind in CATALOGUE[case.image] if kind.name not in present]
    wrong += [NORMAL] if NORMAL not in present else []
    options = [answer, *(str(name) for name in rng.permutation(wrong)[: OPTIONS - 1])]
    return [str(option) for option in rng.permutation(options)], answer


def label(case: Case) -> str:
    """The diagnosis a case is filed under."""
    if case.findings:
        return case.findings[0].name
    return UNCLASSIFIED if case.odd else NORMAL
