"""Select from photographs and cine runs: frames sampled evenly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from worker.images.select.candidates import Selection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.images.select.candidates import Basis, Candidate

#: Share trimmed from each end of a volume or run: it shows air, shoulders or table, or no contrast yet.
_TRIM = 0.1


def evenly(total: int, count: int) -> list[int]:
    """Return at most *count* indices below *total*, evenly spaced after both ends are trimmed."""
    if count >= total:
        return list(range(total))
    # Two at the trimmed ends would show neither the hila nor the ventricles.
    edge = (total - 1) * (_TRIM if count > 2 else 0.5 / count)  # noqa: PLR2004
    return sorted({round(index) for index in np.linspace(edge, total - 1 - edge, count)})


def even_shares(budget: int, count: int) -> list[int]:
    """Return *count* shares of *budget* that differ by at most one, the larger ones first."""
    return [budget // count + (number < budget % count) for number in range(count)]


def select_frames(candidates: Sequence[Candidate], budget: int) -> tuple[list[Selection], Basis]:
    """Select one frame of each still and run, sampled evenly if there are more than *budget*, then more of each run."""
    ordered = sorted(candidates, key=series_order)
    taken = [ordered[index] for index in evenly(len(ordered), budget)]
    total = sum(item.header.frames for item in ordered)
    noun = "images" if total == len(ordered) else "frames"
    return share_budget(taken, budget, "image"), lambda shown: f"{len(shown)} of {total} {noun}"


def series_order(item: Candidate) -> tuple[int, int]:
    """Return the sort key of an object: series and instance number."""
    return item.header.integer("SeriesNumber"), item.header.integer("InstanceNumber")


def share_budget(taken: Sequence[Candidate], budget: int, noun: str, names: Sequence[str] = ()) -> list[Selection]:
    """Select one frame of each object, then more of those with several, in turn; *names* describe the objects."""
    shares = [1] * len(taken)
    rest = budget - len(taken)
    while rest > 0 and any(share < item.header.frames for share, item in zip(shares, taken, strict=True)):
        for index, item in enumerate(taken):
            if rest > 0 and shares[index] < item.header.frames:
                shares[index] += 1
                rest -= 1
    selections = []
    for index, (item, share) in enumerate(zip(taken, shares, strict=True)):
        name = f", {names[index]}" if names and names[index] else ""
        selections += _frames(item, share, f"{noun} {index + 1} of {len(taken)}{name}")
    return selections


def _frames(item: Candidate, share: int, reason: str) -> list[Selection]:
    frames, uid = item.header.frames, item.sop_instance_uid
    headers = item.header.of_frames(evenly(frames, share))
    if frames == 1:
        return [Selection(uid, header, frame, reason) for frame, header in headers.items()]
    return [
        Selection(uid, header, frame, f"{reason}, frame {frame + 1} of {frames}", stack=uid)
        for frame, header in headers.items()
    ]
