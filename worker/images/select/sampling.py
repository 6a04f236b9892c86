"""Choosing from photographs and cine runs: frames spread evenly over what there is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.images.select.candidates import Choice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.images.select.candidates import Basis, Candidate

#: The ends of a volume or a run show air, shoulders, table or nothing yet; frames are spread over what is between.
_TRIM = 0.1


def spread(total: int, count: int) -> list[int]:
    """At most *count* places of *total*, evenly over what is left when both ends are trimmed."""
    if count >= total:
        return list(range(total))
    edge = (total - 1) * _TRIM if count > 1 else (total - 1) / 2
    return sorted({round(place) for place in np.linspace(edge, total - 1 - edge, count)})


def choose_frames(candidates: Sequence[Candidate], budget: int) -> tuple[list[Choice], Basis]:
    """Stills and cine runs: one frame of each object, spread where they are many, then more of each run."""
    ordered = sorted(candidates, key=number_of)
    taken = [ordered[place] for place in spread(len(ordered), budget)]
    total = sum(item.header.frames for item in ordered)
    noun = "images" if total == len(ordered) else "frames"
    return allotted(taken, budget, "image"), lambda shown: f"{len(shown)} of {total} {noun}"


def number_of(item: Candidate) -> tuple[int, int]:
    """The order people gave the objects of a study."""
    return item.header.integer("SeriesNumber"), item.header.integer("InstanceNumber")


def allotted(taken: Sequence[Candidate], budget: int, noun: str, names: Sequence[str] = ()) -> list[Choice]:
    """One frame each, and what is left of the budget to the objects that have more, in turn.

    *names*, one for each object, say what it shows.
    """
    shares = [1] * len(taken)
    left = budget - len(taken)
    while left > 0 and any(share < item.header.frames for share, item in zip(shares, taken, strict=True)):
        for place, item in enumerate(taken):
            if left > 0 and shares[place] < item.header.frames:
                shares[place] += 1
                left -= 1
    choices = []
    for place, (item, share) in enumerate(zip(taken, shares, strict=True)):
        name = f", {names[place]}" if names and names[place] else ""
        choices += _frames(item, share, f"{noun} {place + 1} of {len(taken)}{name}")
    return choices


def _frames(item: Candidate, share: int, reason: str) -> list[Choice]:
    frames = item.header.frames
    headers = item.header.of_frames(spread(frames, share))
    return [
        Choice(item.identity, header, frame, reason + (f", frame {frame + 1} of {frames}" if frames > 1 else ""))
        for frame, header in headers.items()
    ]
