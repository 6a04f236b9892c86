"""Select from projections: every view once before any of them again, in reading order."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from worker.images.select.sampling import series_order, share_budget

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.images.select.candidates import Basis, Candidate, Selection

_FRONTAL = frozenset({"PA", "AP", "FRONTAL"})
_LATERAL = frozenset({"LL", "RL", "LAT", "LATERAL", "LLD", "RLD"})
_MAMMOGRAM = {"CC": 0, "MLO": 1}
_OTHER = 2
#: View Code Sequence, in SNOMED CT and in the older SRT (PS3.16 CID 4010 and 4014).
_VIEWS = {
    "272479007": "PA", "R-40888": "PA", "399348003": "AP", "R-10206": "AP",
    "399033003": "FRONTAL", "R-10202": "FRONTAL",
    "399173006": "LL", "R-10236": "LL", "399198007": "RL", "R-10232": "RL",
    "399067008": "LATERAL", "R-102CD": "LATERAL",
    "399162004": "CC", "R-10242": "CC", "399368009": "MLO", "R-10226": "MLO",
    "399260004": "ML", "R-10224": "ML", "399352003": "LM", "R-10228": "LM",
}  # fmt: skip


def select_views(candidates: Sequence[Candidate], budget: int) -> tuple[list[Selection], Basis]:
    """Select radiographs, frontal before lateral, and mammograms, the four standard views before any other."""
    ranked = sorted(_for_presentation(candidates), key=_rank)
    earlier: Counter[tuple[object, ...]] = Counter()
    repeats = []
    for item in ranked:
        kind = (item.header.code("BodyPartExamined"), item.header.frames > 1, _kind(item), _side(item))
        repeats.append(earlier[kind])
        earlier[kind] += 1
    # Ten exposures of one side must not displace the other.
    ordered = [item for _, item in sorted(zip(repeats, ranked, strict=True), key=lambda pair: pair[0])]
    taken = ordered[:budget]
    names = [" ".join(filter(None, (_side(item), _view(item)))) for item in taken]
    return share_budget(taken, budget, "view", names), lambda shown: _basis(shown, len(ranked))


def _basis(shown: Sequence[Selection], total: int) -> str:
    """Return the basis: views, and of multi-frame ones (tomosynthesis) the frames."""
    views = {selection.sop_instance_uid: selection.header.frames for selection in shown}
    stacks = {uid: frames for uid, frames in views.items() if frames > 1}
    selected = sum(selection.sop_instance_uid in stacks for selection in shown)
    of_frames = f"{selected} of {sum(stacks.values())} frames"
    counted = f"{len(views)} of {total} views"
    if not stacks:
        return counted
    if len(stacks) < len(views):
        return f"{counted}, with {of_frames} of {_number(len(stacks))}"
    return f"{of_frames} of {counted if len(views) < total else _number(total)}"


def _number(views: int) -> str:
    return "1 view" if views == 1 else f"{views} views"


def _for_presentation(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Drop images for processing if others exist: detectors send each exposure twice."""
    processed = [item for item in candidates if item.header.text("PresentationIntentType") != "FOR PROCESSING"]
    return processed or candidates


def _rank(item: Candidate) -> tuple[int, ...]:
    # A tomosynthesis stack after the plain views; right before left, as in a hanging protocol.
    return (item.header.frames > 1, _order(item), "RL".find(_side(item)[:1] or "?"), *series_order(item))


def _order(item: Candidate) -> int:
    view = _view(item)
    if item.modality == "MG":
        return _MAMMOGRAM.get(view, _OTHER)
    return 0 if view in _FRONTAL else 1 if view in _LATERAL else _OTHER


def _kind(item: Candidate) -> object:
    return _order(item) if _order(item) < _OTHER else _view(item)


def _view(item: Candidate) -> str:
    codes = (view.text("CodeValue") for view in item.header.shared().items("ViewCodeSequence"))
    return item.header.code("ViewPosition") or next((_VIEWS[code] for code in codes if code in _VIEWS), "")


def _side(item: Candidate) -> str:
    header = item.header.shared()
    return header.code("ImageLaterality") or header.code("Laterality") or header.code("FrameLaterality")
