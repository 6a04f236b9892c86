"""Halve judged studies again and again: one half calibrates, on the other the certified error is measured."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from worker.grounding.calibration import certify

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.grounding.calibration import JudgedFinding

#: Halvings of a set.
COUNT = 60


@dataclass(frozen=True, slots=True)
class Halvings:
    """Numbers of halvings that certified each group by one half, and figures of certified groups in the other halves.

    *exceeded* is the number of halvings whose error among shown findings is above alpha; *coverage* and *errors* have
    the share of the affirmed findings that is shown, and the error among them, of each halving with a certified group.
    """

    certified: Mapping[str, int]
    exceeded: int
    coverage: Sequence[float]
    errors: Sequence[float]

    def figures(self) -> dict[str, float]:
        """Return the figures; nan where no half certified anything."""
        return {
            **{f"halvings that certify {group} findings": count for group, count in self.certified.items()},
            "halvings with an error above alpha": self.exceeded,
            "mean coverage of certified groups": fmean(self.coverage) if self.coverage else math.nan,
            "lowest coverage": min(self.coverage, default=math.nan),
            "highest error": max(self.errors, default=math.nan),
        }

    def line(self) -> str:
        """Return one line for a person."""
        certified = ", ".join(f"{group} {count} times" for group, count in self.certified.items()) or "no group"
        shown = self.figures()
        return (
            f"{COUNT} halvings of the set, one half certifies and the other is measured: certified {certified}; error"
            f" above alpha {self.exceeded} times, highest {shown['highest error']:.3f}; coverage"
            f" {shown['mean coverage of certified groups']:.3f}, lowest {shown['lowest coverage']:.3f}"
        )


def halvings(judged: Sequence[JudgedFinding], *, alpha: float, delta: float, seed: int = 0) -> Halvings:
    """Halve the studies of *judged* COUNT times."""
    certified, rows = Counter[str](), []
    for calibrating, measured in _halves(judged, seed):
        groups = certify(calibrating, alpha=alpha, delta=delta)
        margins = {name: group.margin for name, group in groups.items() if group.margin is not None}
        certified.update([*margins])
        affirmed = [one for one in measured if one.group in margins]
        shown = [one for one in affirmed if one.shown(margins[one.group])]
        if shown:
            rows.append((len(shown) / len(affirmed), float(np.mean([not one.right for one in shown]))))
    errors = [error for _, error in rows]
    return Halvings(dict(certified), sum(error > alpha for error in errors), [share for share, _ in rows], errors)


def _halves(judged: Sequence[JudgedFinding], seed: int) -> Iterator[tuple[list[JudgedFinding], list[JudgedFinding]]]:
    of_study: dict[str, list[JudgedFinding]] = defaultdict(list)
    for one in judged:
        of_study[one.study].append(one)
    studies, rng = list(of_study.values()), np.random.default_rng(seed)
    for _ in range(COUNT):
        order = rng.permutation(len(studies))
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        calibrating, measured = ([one for number in half for one in studies[number]] for half in halves)
        yield calibrating, measured
