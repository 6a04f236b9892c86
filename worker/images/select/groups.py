"""Groups of a study: the objects of one modality family and body part, of which one part of the report is written."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from db.studies.modalities import PROJECTION_RADIOGRAPHS
from worker.images.select.body_parts import ORDER, body_parts_of, name_of, statements_of
from worker.images.select.candidates import Tier
from worker.images.select.extents import Place, place_of
from worker.images.select.sampling import select_frames
from worker.images.select.slides import select_tiles
from worker.images.select.views import select_views
from worker.images.select.volumes import select_slices

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from worker.images.select.body_parts import Parts
    from worker.images.select.candidates import Basis, Candidate, Selection

#: Modalities whose images are slices of volumes.
VOLUMES = frozenset({"CT", "MR", "PT", "OPT"})


@dataclass(frozen=True, slots=True)
class Group:
    """Objects of one modality family, body part and tier, at least one."""

    family: str
    parts: Parts
    candidates: list[Candidate]

    @property
    def tier(self) -> Tier:
        """Tier of its objects."""
        return self.candidates[0].tier

    @property
    def modality(self) -> str:
        """Modality of most of its objects."""
        counts = Counter(item.modality for item in self.candidates)
        return max(sorted(counts), key=lambda modality: counts[modality])

    @property
    def name(self) -> str:
        """Heading of its part of the report: `CT HEAD`."""
        return f"{self.modality} {name_of(self.parts)}".rstrip()


@dataclass(frozen=True, slots=True)
class Chosen:
    """Selections of one group and the sentence about them."""

    group: Group
    selections: list[Selection]
    basis: Basis


def with_body_parts(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the same objects with their body parts.

    The slices of a series share the one that most of them state. An object without one has that of its series, of the
    only one in its place, or of the only one in its modality family; never that of slices known to lie elsewhere.
    """
    stated = _stated(candidates)
    of_series = _most(candidates, stated)
    parts = {
        item.sop_instance_uid: (item.family not in VOLUMES and stated[item.sop_instance_uid]) or of_series[item.series]
        for item in candidates
    }
    inherited = _inherited(candidates, parts)
    return [replace(item, parts=parts[item.sop_instance_uid] or inherited[item.series]) for item in candidates]


def _stated(candidates: Sequence[Candidate]) -> dict[str, Parts]:
    """Return the body parts that each object states.

    A code that contradicts the description of one series, and agrees with that of another, is that of the examination:
    then the description decides.
    """
    found = [(item, statements_of(item.header)) for item in candidates]
    confirmed = {(item.family, stated.coded) for item, stated in found if stated.described and not stated.contradictory}
    return {
        item.sop_instance_uid: stated.described
        if stated.contradictory and (item.family, stated.coded) in confirmed
        else body_parts_of(item.header)
        for item, stated in found
    }


def _most(candidates: Iterable[Candidate], stated: dict[str, Parts]) -> dict[str, Parts]:
    """Return the body parts that most objects of each series state."""
    counts: dict[str, Counter[Parts]] = defaultdict(Counter)
    for item in candidates:
        counts[item.series][stated[item.sop_instance_uid]] += 1
    return {
        series: max(sorted(of_one), key=lambda parts: (bool(parts), of_one[parts])) for series, of_one in counts.items()
    }


def _inherited(candidates: Iterable[Candidate], parts: dict[str, Parts]) -> dict[str, Parts]:
    """Return the body parts that each series without its own has from the others of its modality family."""
    series: dict[str, list[Candidate]] = defaultdict(list)
    for item in candidates:
        series[item.series].append(item)
    own = {uid: parts[items[0].sop_instance_uid] for uid, items in series.items()}
    if all(own.values()):
        return own
    places = {uid: (items[0].family, _place_of(items)) for uid, items in series.items()}
    stated: dict[str, list[tuple[Place, Parts]]] = defaultdict(list)
    for uid, (family, place) in places.items():
        if own[uid]:
            stated[family].append((place, own[uid]))
    return {uid: own[uid] or _only_part(place, stated[family]) for uid, (family, place) in places.items()}


def _place_of(items: Sequence[Candidate]) -> Place:
    return place_of(items) if items[0].family in VOLUMES else Place("", None)


def _only_part(place: Place, stated: Iterable[tuple[Place, Parts]]) -> Parts:
    """Return the one part of the series in the same place, else of those that may be in it; empty if not one."""
    found: dict[bool | None, set[Parts]] = defaultdict(set)
    for other, parts in stated:
        found[place.is_of(other)].add(parts)
    known = found[True] or found[None]
    return known.pop() if len(known) == 1 else ()


def groups_of(candidates: Sequence[Candidate]) -> list[Group]:
    """Return the groups of objects of the best tiers: the modality with most objects first, parts from head to foot."""
    found: dict[tuple[str, Parts], list[Candidate]] = defaultdict(list)
    for item in candidates:
        found[item.family, item.parts].append(item)
    objects = Counter(item.family for item in candidates)
    groups = [Group(family, parts, items) for (family, parts), items in found.items()]
    return sorted(groups, key=lambda group: (-objects[group.family], group.family, _place(group.parts)))


def _place(parts: Parts) -> tuple[int, ...]:
    return tuple(ORDER.index(part) for part in parts) or (len(ORDER),)


def choose(groups: Sequence[Group], budget: int) -> list[Chosen]:
    """Select at most *budget* images: at least one of each group; if there are more groups, of the first ones.

    No modality family is left out for a further body part of another.
    """
    number: Counter[str] = Counter()
    ranks = []
    for place, group in enumerate(groups):
        ranks.append((number[group.family], place))
        number[group.family] += 1
    shown = [groups[place] for place in sorted(place for _, place in sorted(ranks)[:budget])]
    return [
        Chosen(group, *_select_from(group, share)) for group, share in zip(shown, _shares(shown, budget), strict=True)
    ]


def _shares(groups: Sequence[Group], budget: int) -> list[int]:
    """Return the images of each group: one, then by the number of its body parts; modality families count alike."""
    if len(groups) == 1:
        return [budget]
    parts: Counter[str] = Counter()
    for group in groups:
        parts[group.family] += max(1, len(group.parts))
    weights = [max(1, len(group.parts)) / parts[group.family] for group in groups]
    shares = [1] * len(groups)
    for _ in range(budget - len(groups)):
        # Highest averages (D'Hondt): the group with the largest weight for each of its images is next.
        incomplete = [place for place, group in enumerate(groups) if shares[place] < _most_images(group)]
        if not incomplete:
            break
        shares[max(incomplete, key=lambda place: (weights[place] / shares[place], -place))] += 1
    return shares


def _most_images(group: Group) -> int:
    frames = sum(item.header.frames for item in group.candidates)
    return 2 * frames if group.family == "CT" else frames  # a slice may be shown in two windows


def _select_from(group: Group, share: int) -> tuple[list[Selection], Basis]:
    own = group.candidates
    if group.tier == Tier.LOCALIZER:
        # Each view of a localizer is an image of its own, not a slice of a volume.
        return select_frames(own, share)
    if group.family in VOLUMES:
        return select_slices(own, share, group.parts)
    if group.family == "SM":
        return select_tiles(own, share)
    return select_views(own, share) if group.family in PROJECTION_RADIOGRAPHS else select_frames(own, share)
