"""Calibration: bound the error of the findings that are shown as fact, by learn-then-test.

The thresholds of the labels are learned from the reference set, and tested on other cases (Angelopoulos et al. 2021,
"Learn then Test"): for a margin above the thresholds the hypothesis "the error exceeds alpha" is rejected by an exact
binomial tail. The margins are tested in two fixed sequences, each with half of delta, so that the probability of any
false rejection is at most delta. The unit is the study, because the errors of one study are not independent: it is
wrong if any of its shown findings of the group is.

The bound holds for studies like those of the set. Findings are put into groups, each tested on its own: a bound on all
of them would hide the error of the rare ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from db.reports.certificates import GROUPS, GroupFigures, Standing
from db.reports.grounds import is_flagged
from db.states import Calibration
from worker.grounding.checks.contradictions import GENERIC
from worker.grounding.checks.evidence import CRITICAL

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from db.reports.certificates import Certificate
    from db.reports.grounds import GroundedFinding, Grounds

#: A finding of fewer reference cases is rare: its label's direction rests on few images.
MIN_COMMON_CASES = 30
#: Margins above the labels' thresholds in units of the scores' standard deviation: two sequences, each tested in order
#: until a hypothesis is not rejected. Never below 0: a certificate lowers no threshold.
SEQUENCES = ((0.0,), (1.0, 0.75, 0.5, 0.25))
#: Halvings of the interval of a confidence bound: far below the printed digits.
HALVINGS = 60


@dataclass(frozen=True, slots=True)
class JudgedFinding:
    """An affirmed finding of a study with known findings.

    *margin* is its score over its label's threshold: None if it is flagged whatever its score, infinite if it is shown
    without one.
    """

    study: str
    group: str
    margin: float | None
    right: bool

    def shown(self, margin: float) -> bool:
        """Return whether it is shown as fact at a *margin*."""
        return self.margin is not None and self.margin >= margin


def judged_findings(
    study: str, stated: Iterable[GroundedFinding], is_right: Callable[[GroundedFinding], bool], common: Collection[str]
) -> list[JudgedFinding]:
    """Return the affirmed findings among *stated*, each place once; those that name no finding are left out."""
    affirmed = [finding for finding in stated if finding.certainty == "present" and finding.name not in GENERIC]
    # Findings and impression tell the same.
    once = {(finding.name, finding.side, finding.zone): finding for finding in affirmed}
    return [
        JudgedFinding(study, group_of(finding.name, common), _margin(finding), is_right(finding))
        for finding in once.values()
    ]


def _margin(finding: GroundedFinding) -> float | None:
    if is_flagged(finding.certainty, finding.verdict, finding.cited):
        return None
    score = finding.in_image
    # Not measurable and affirmed by a case: shown as fact, and no margin flags it.
    return math.inf if score is None else round(score.score - score.threshold, 4)


def group_of(finding: str, common: Collection[str]) -> str:
    """Return the group of a finding; one that the reference set does not know is rare."""
    if finding in CRITICAL:
        return "critical"
    return "common" if finding in common else "rare"


def certify(judged: Sequence[JudgedFinding], *, alpha: float, delta: float) -> dict[str, GroupFigures]:
    """Return the figures of each group, with the lowest margin whose error is bounded, if there is one."""
    of_group: dict[str, list[JudgedFinding]] = defaultdict(list)
    for one in judged:
        of_group[one.group].append(one)
    return {group: _certify(of_group[group], alpha, delta) for group in GROUPS}


def _certify(judged: Sequence[JudgedFinding], alpha: float, delta: float) -> GroupFigures:
    level = delta / len(SEQUENCES)
    rejected = [margin for sequence in SEQUENCES for margin in _rejected(judged, sequence, alpha, level)]
    margin = min(rejected, default=None)
    wrong, studies = _count(judged, margin or 0.0)
    shown = [one for one in judged if one.shown(margin or 0.0)]
    return GroupFigures(
        affirmed=len(judged),
        shown=len(shown),
        wrong=sum(not one.right for one in shown),
        studies=studies,
        wrong_studies=wrong,
        bound=round(upper_bound(wrong, studies, level), 4),
        margin=margin,
        missing=0 if margin is not None else max(needed(wrong, alpha, level) - studies, 0),
    )


def _rejected(
    judged: Sequence[JudgedFinding], sequence: Iterable[float], alpha: float, level: float
) -> Iterable[float]:
    for margin in sequence:
        if binomial_tail(*_count(judged, margin), alpha) > level:
            return
        yield margin


def _count(judged: Sequence[JudgedFinding], margin: float) -> tuple[int, int]:
    """Return the number of studies with a wrong shown finding and of those with any."""
    shown = [one for one in judged if one.shown(margin)]
    return len({one.study for one in shown if not one.right}), len({one.study for one in shown})


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """Return the probability of at most *successes* in *trials*: the p-value of "the error exceeds *probability*"."""
    if successes >= trials:
        return 1.0
    log_p, log_q = math.log(probability), math.log1p(-probability)
    return min(1.0, math.fsum(math.exp(_log_ways(trials, k) + k * log_p + (trials - k) * log_q)
                              for k in range(successes + 1)))  # fmt: skip


def _log_ways(trials: int, chosen: int) -> float:
    return math.lgamma(trials + 1) - math.lgamma(chosen + 1) - math.lgamma(trials - chosen + 1)


def upper_bound(successes: int, trials: int, level: float) -> float:
    """Return the one-sided Clopper-Pearson bound of a share: it is exceeded with probability *level* at most."""
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        # At both ends of the interval of probabilities the tail is 1 and 0.
        low, high = (
            (middle, high) if 0 < middle < 1 and binomial_tail(successes, trials, middle) > level else (low, middle)
        )
    return high


def needed(wrong: int, alpha: float, level: float) -> int:
    """Return the least number of studies, *wrong* of them wrong, that bounds the error at *alpha*."""
    studies = wrong + 1
    while binomial_tail(wrong, studies, alpha) > level:
        studies += 1
    return studies


def margins(certificate: Certificate | None, labels: Sequence[str]) -> list[float]:
    """Return what the score of each label, "finding side", must exceed its threshold by; 0 without a certificate."""
    if certificate is None:
        return [0.0] * len(labels)
    groups = [certificate.groups.get(group_of(_finding(label), certificate.common)) for label in labels]
    return [group.margin or 0.0 if group else 0.0 for group in groups]


def _finding(label: str) -> str:
    return label.rpartition(" ")[0]


def of_report(standing: Standing, grounds: Grounds) -> Standing:
    """Return the standing of a report: uncalibrated if it shows a finding as fact of a group that is not certified."""
    certificate = standing.certificate
    if certificate is None:
        return standing
    stated = [f for sentence in grounds.sentences for f in sentence.findings if f.certainty != "absent"]
    shown = {f.name for f in stated if not is_flagged(f.certainty, f.verdict, f.cited)}
    groups = {group_of(name, certificate.common) for name in shown - GENERIC}
    missing = [name for name in GROUPS if name in groups and not _is_certified(certificate.groups, name)]
    if shown & GENERIC:
        # Counted in no group.
        missing.append("unclassified")
    if not missing:
        return standing
    reason = f"the certificate does not cover {' and '.join(missing)} findings, which this report shows"
    return Standing(Calibration.UNCALIBRATED, reason)


def _is_certified(groups: Mapping[str, GroupFigures], name: str) -> bool:
    return name in groups and groups[name].margin is not None
