"""Choosing from projections, photographs and cine runs: whole pictures, in the order they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from worker.images.candidates import Choice
from worker.images.volumes import spread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.images.candidates import Candidate

XRAY = frozenset({"CR", "DX", "IO", "PX", "RG", "MG"})
_FRONTAL = frozenset({"PA", "AP", "FRONTAL"})
_LATERAL = frozenset({"LL", "RL", "LAT", "LATERAL", "LLD", "RLD"})
_MAMMOGRAM = {"CC": 0, "MLO": 1}


def choose_views(candidates: Sequence[Candidate], budget: int) -> tuple[list[Choice], str]:
    """Radiographs, frontal before lateral, and mammograms: the four views before any other."""
    shown = _for_presentation(candidates)
    ranked = sorted(shown, key=_rank)
    choices = _allotted(ranked[:budget], budget, "view")
    return choices, f"{min(len(ranked), budget)} of {len(ranked)} views"


def choose_frames(candidates: Sequence[Candidate], budget: int) -> tuple[list[Choice], str]:
    """Stills and cine runs: one frame of each object, spread where they are many, then more of each run."""
    ordered = sorted(candidates, key=_number)
    taken = [ordered[place] for place in spread(len(ordered), budget)]
    choices = _allotted(taken, budget, "image")
    total = sum(item.header.frames for item in ordered)
    noun = "images" if total == len(ordered) else "frames"
    return choices, f"{len(choices)} of {total} {noun}"


def _for_presentation(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Detectors send the same exposure twice; the one for processing is not meant for eyes."""
    processed = [item for item in candidates if item.header.text("PresentationIntentType") != "FOR PROCESSING"]
    return processed or candidates


def _rank(item: Candidate) -> tuple[int, ...]:
    header = item.header
    view = header.text("ViewPosition").upper()
    order = 0 if view in _FRONTAL else 1 if view in _LATERAL else 2
    if item.modality == "MG":
        order = _MAMMOGRAM.get(view, 2)
    side = header.text("ImageLaterality") or header.text("Laterality") or header.text("FrameLaterality")
    # A tomosynthesis stack after the plain views; right before left, as they are hung.
    return (header.frames > 1, order, "RL".find(side[:1] or "?"), *_number(item))


def _number(item: Candidate) -> tuple[int, int]:
    return item.header.integer("SeriesNumber"), item.header.integer("InstanceNumber")


def _allotted(taken: Sequence[Candidate], budget: int, noun: str) -> list[Choice]:
    """One frame each, and what is left of the budget to the objects that have more, in turn."""
    shares = [1] * len(taken)
    left = budget - len(taken)
    while left > 0 and any(share < item.header.frames for share, item in zip(shares, taken, strict=True)):
        for place, item in enumerate(taken):
            if left > 0 and shares[place] < item.header.frames:
                shares[place] += 1
                left -= 1
    return [
        _choice(item, frame, f"{noun} {place + 1} of {len(taken)}")
        for place, (item, share) in enumerate(zip(taken, shares, strict=True))
        for frame in spread(item.header.frames, share)
    ]


def _choice(item: Candidate, frame: int, reason: str) -> Choice:
    header, frames = item.header, item.header.frames
    view = header.text("ViewPosition").upper()
    reason += f", {view}" if view else ""
    if frames > 1:
        reason += f", frame {frame + 1} of {frames}"
        own = header.by_frame()
        header = own[frame] if frame < len(own) else header.shared()
    return Choice(item.identity, header, frame, reason)
