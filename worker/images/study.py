"""A study's objects -> the pictures the model sees, and why these.

headers -> candidates -> choices -> pictures. Only what was chosen is decoded; what fails is left out, said so, and
replaced by the next best choice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from db.errors import NotReportable
from worker.images import quality
from worker.images.candidates import NAMES, Tier, candidate
from worker.images.errors import Unreadable
from worker.images.framing import framed
from worker.images.header import read
from worker.images.regions import region_of
from worker.images.render import render
from worker.images.slides import assemble, choose_tiles
from worker.images.views import XRAY, choose_frames, choose_views
from worker.images.volumes import choose as choose_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from worker.images.candidates import Candidate, Choice

#: Times a study is chosen from again after chosen objects turned out to be damaged.
_ROUNDS = 20
_VOLUMES = frozenset({"CT", "MR", "PT", "OPT"})


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One stored object: its file, and the SOP Instance UID it was received under."""

    path: Path
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Picture:
    """What the model is shown: *pixels* is uint8 [rows, columns, 3]; *transform* says how they were made."""

    pixels: npt.NDArray[np.uint8]
    sop_instance_uid: str
    frame: int
    reason: str
    transform: dict[str, Any]
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An object, or one frame of it (from 0), that could have been shown and was not."""

    sop_instance_uid: str
    frame: int | None
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class StudyPictures:
    """The pictures of a study, what they stand for, and what was left out."""

    pictures: list[Picture]
    left_out: list[LeftOut]
    #: "8 of 240 slices of series 3"
    basis: str
    modality: str
    #: A region such as CHEST or HEAD; empty where nothing says it.
    body_part: str

    @property
    def informative(self) -> bool:
        """Whether at least one picture can show anything at all."""
        return any(not quality.WITHOUT_INFORMATION & set(picture.warnings) for picture in self.pictures)

    def remarks(self) -> list[str]:
        """What was left out, as sentences, one for each cause."""
        causes = Counter(left.detail for left in self.left_out)
        return [f"{number} {'images' if number > 1 else 'image'} left out: {cause}" for cause, number in causes.items()]


def pictures_of(
    instances: Sequence[StoredInstance], *, budget: int = 8, on_progress: Callable[[], None] = lambda: None
) -> StudyPictures:
    """Choose and draw at most *budget* pictures of a study; *on_progress* is called after each object and each drawing.

    Raises NotReportable, with the reason most of its objects share, where none of them can be shown.
    """
    found, left_out = _readable(instances, on_progress)
    drawn: dict[tuple[object, ...], Picture | Unreadable] = {}
    failed: dict[tuple[str, int | None], LeftOut] = {}
    for _ in range(_ROUNDS):
        tier = min((item.tier for item in found), default=Tier.PRIMARY)
        best = [item for item in found if item.tier == tier]
        choices, basis = _chosen(best, budget)
        pictures, lost = _draw(choices, drawn)
        on_progress()
        failed |= {(left.sop_instance_uid, left.frame): left for left in lost}
        # A run with one damaged frame still has the others.
        broken = {left.sop_instance_uid for left in lost} - {picture.sop_instance_uid for picture in pictures}
        found = [item for item in found if item.identity not in broken]
        if not broken:
            break
    left_out += failed.values()
    if not pictures:
        raise _nothing(left_out)
    left_out += [_passed_over(item) for item in found if item.tier > tier]
    shown = _distinct(pictures, left_out)
    modality = _modality_of(shown, best)
    region = region_of(item.header for item in best)
    return StudyPictures(shown, left_out, basis + _made_do(tier), modality, region)


def _readable(
    instances: Sequence[StoredInstance], on_progress: Callable[[], None]
) -> tuple[list[Candidate], list[LeftOut]]:
    found: list[Candidate] = []
    left_out: list[LeftOut] = []
    for instance in instances:
        on_progress()
        try:
            found.append(candidate(instance.sop_instance_uid, read(instance.path)))
        except Unreadable as problem:
            left_out.append(LeftOut(instance.sop_instance_uid, None, problem.code, problem.detail))
    return found, left_out


def _chosen(candidates: Sequence[Candidate], budget: int) -> tuple[list[Choice], str]:
    """Share the budget among the modalities of a study (PET and CT), the one with most objects first."""
    counted = Counter(_read_as(item) for item in candidates).most_common(budget)
    choices: list[Choice] = []
    sentences = []
    for number, (modality, _) in enumerate(counted):
        share = budget // len(counted) + (number < budget % len(counted))
        own = [item for item in candidates if _read_as(item) == modality]
        some, sentence = _chosen_from(modality, own, share)
        choices += some
        sentences.append(f"{modality}: {sentence}" if len(counted) > 1 else sentence)
    return choices, "; ".join(sentences)


def _read_as(item: Candidate) -> str:
    """CR and DX are one kind of picture from two kinds of detector."""
    return "DX" if item.modality in ("CR", "DX", "RG") else item.modality


def _chosen_from(modality: str, own: list[Candidate], share: int) -> tuple[list[Choice], str]:
    if modality in _VOLUMES:
        return choose_slices(own, share, region_of(item.header for item in own))
    if modality == "SM":
        return choose_tiles(own, share)
    return choose_views(own, share) if modality in XRAY else choose_frames(own, share)


def _draw(
    choices: Sequence[Choice], drawn: dict[tuple[object, ...], Picture | Unreadable]
) -> tuple[list[Picture], list[LeftOut]]:
    pictures, lost = [], []
    for choice in choices:
        key = (choice.identity, choice.frame, choice.window, choice.whole)
        if key not in drawn:
            drawn[key] = _drawn(choice)
        result = drawn[key]
        if isinstance(result, Picture):
            pictures.append(result)
        else:
            lost.append(LeftOut(choice.identity, choice.frame, result.code, result.detail))
    return pictures, lost


def _drawn(choice: Choice) -> Picture | Unreadable:
    try:
        if choice.whole:
            levels, steps = assemble(choice.header)
        else:
            levels, steps = render(choice.header, choice.frame, window=choice.window)
    except Unreadable as problem:
        return problem
    warnings = quality.warnings_about(levels)
    pixels, geometry = framed(choice.header, levels)
    return Picture(pixels, choice.identity, choice.frame, choice.reason, {**steps, **geometry}, warnings)


def _distinct(pictures: list[Picture], left_out: list[LeftOut]) -> list[Picture]:
    """Each picture once: stills are often sent twice under two UIDs."""
    seen: set[bytes] = set()
    distinct = []
    for picture in pictures:
        digest = hashlib.sha256(picture.pixels.data).digest()
        if digest in seen:
            left_out.append(LeftOut(picture.sop_instance_uid, picture.frame, "duplicate", "the same picture again"))
        else:
            distinct.append(picture)
        seen.add(digest)
    return distinct


def _passed_over(item: Candidate) -> LeftOut:
    return LeftOut(item.identity, None, "better_images", f"{NAMES[item.tier]}, and there are better images")


def _made_do(tier: Tier) -> str:
    return f"; only {NAMES[tier]} were sent" if tier in (Tier.SECONDARY, Tier.LOCALIZER) else ""


def _modality_of(pictures: Sequence[Picture], candidates: Sequence[Candidate]) -> str:
    modalities = {item.identity: item.modality for item in candidates}
    return Counter(modalities[picture.sop_instance_uid] for picture in pictures).most_common(1)[0][0]


def _nothing(left_out: Sequence[LeftOut]) -> NotReportable:
    causes = Counter((left.reason, left.detail) for left in left_out)
    if not causes:
        return NotReportable("no_images", "the study holds no images")
    (reason, detail), _ = causes.most_common(1)[0]
    return NotReportable(reason, f"no image of the study can be shown; most often: {detail}")
