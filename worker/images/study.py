"""A study's objects -> the images the model sees, and why these.

headers -> candidates -> choices -> images. Only what was chosen is decoded; what fails is left out, said so, and
replaced by the next best choice.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from db.errors import NotReportable, Outcome, Reason, TransientFailure
from db.studies.modalities import PROJECTION_RADIOGRAPHS
from worker.images.decode.files import read
from worker.images.errors import Unreadable
from worker.images.render import quality
from worker.images.render.framing import framed
from worker.images.render.render import render
from worker.images.select.body_parts import region_of
from worker.images.select.candidates import NAMES, Tier, best_of, candidate, without_scouts
from worker.images.select.sampling import choose_frames
from worker.images.select.slides import assemble, choose_tiles
from worker.images.select.views import choose_views
from worker.images.select.volumes import choose as choose_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from worker.images.select.candidates import Basis, Candidate, Choice

log = logging.getLogger(__name__)
_Object = TypeVar("_Object")
_Made = TypeVar("_Made")

#: Times a study is chosen from again after chosen objects turned out to be damaged.
_ROUNDS = 20
#: Bytes of headers kept while a study is chosen from: thousands of slices take 10 MB, 100 000 frames of a slide 20 MB.
_MAX_HEADERS = 128 << 20
_VOLUMES = frozenset({"CT", "MR", "PT", "OPT"})


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One stored object: its file, and the SOP Instance UID it was received under."""

    path: Path
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class RenderedImage:
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
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class StudyImages:
    """The images of a study, what they stand for, and what was left out."""

    images: list[RenderedImage]
    left_out: list[LeftOut]
    #: "8 of 240 slices of series 3"
    basis: str
    modality: str
    #: A region such as CHEST or HEAD; empty where nothing says it.
    body_part: str

    @property
    def informative(self) -> bool:
        """Whether at least one image can show anything at all."""
        return any(not quality.WITHOUT_INFORMATION & set(image.warnings) for image in self.images)

    def limitations(self) -> list[str]:
        """Sentences about the images left out, one for each cause."""
        causes = Counter(left.detail for left in self.left_out)
        return [f"{n} {'images were' if n > 1 else 'image was'} not used: {cause}." for cause, n in causes.items()]


def images_of(
    instances: Sequence[StoredInstance], *, budget: int = 8, on_progress: Callable[[], None] = lambda: None
) -> StudyImages:
    """Choose and draw at most *budget* images of a study; *on_progress* is called after each object and each drawing.

    Raises NotReportable, with the reason most of its objects share, where none of them can be shown; TransientFailure
    where its files are gone.
    """
    found, left_out = _readable(instances, on_progress)
    drawn: dict[tuple[object, ...], RenderedImage | Unreadable] = {}
    failed: dict[tuple[str, int | None], LeftOut] = {}
    for _ in range(_ROUNDS):
        best = best_of(found)
        choices, basis = _chosen(best, budget)
        images, lost = _draw(choices, drawn)
        on_progress()
        failed |= {(left.sop_instance_uid, left.frame): left for left in lost}
        # A run with one damaged frame still has the others.
        broken = _useless(lost, best) - {image.sop_instance_uid for image in images}
        found = [item for item in found if item.identity not in broken]
        if not broken:
            break
    left_out += failed.values()
    if not images:
        raise _nothing(left_out)
    used = {item.identity for item in best}
    left_out += [_passed_over(item) for item in found if item.identity not in used]
    shown = {(image.sop_instance_uid, image.frame) for image in images}
    sentence = basis([choice for choice in choices if (choice.identity, choice.frame) in shown])
    return StudyImages(images, left_out, sentence, _modality_of(images, best), region_of(item.header for item in best))


def _readable(
    instances: Sequence[StoredInstance], on_progress: Callable[[], None]
) -> tuple[list[Candidate], list[LeftOut]]:
    found: list[Candidate] = []
    left_out: list[LeftOut] = []
    room = _MAX_HEADERS
    for instance in instances:
        on_progress()
        read_or_not = _guarded(partial(_judged, room=room), instance)
        if isinstance(read_or_not, Unreadable):
            left_out.append(LeftOut(instance.sop_instance_uid, None, read_or_not.reason, read_or_not.detail))
        else:
            found.append(read_or_not)
            room -= read_or_not.header.bytes_kept
    return without_scouts(found), left_out


def _judged(instance: StoredInstance, *, room: int) -> Candidate:
    header = read(instance.path)
    if header.bytes_kept > room:
        raise Unreadable(Reason.TOO_LARGE, f"the headers of the study exceed {_MAX_HEADERS >> 20} MiB")
    return candidate(instance.sop_instance_uid, header)


def _guarded(work: Callable[[_Object], _Made], of: _Object) -> _Made | Unreadable:
    """What *work* makes of one object, or why it cannot: one bad object must not cost the study its report.

    Raises OSError and MemoryError: they are the machine's, and may pass.
    """
    try:
        return work(of)
    except Unreadable as problem:
        return problem
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - objects are made by others; what nobody foresaw must stay with its object
        log.warning("an object could not be used: %s", type(error).__name__)
        return Unreadable(Reason.UNDECODABLE, "the object could not be processed")


def _chosen(candidates: Sequence[Candidate], budget: int) -> tuple[list[Choice], Basis]:
    """Share the budget among the modalities of a study (PET and CT), the one with most objects first."""
    counted = Counter(item.family for item in candidates).most_common(budget)
    choices: list[Choice] = []
    parts: list[tuple[str, set[str], Basis]] = []
    for number, (modality, _) in enumerate(counted):
        share = budget // len(counted) + (number < budget % len(counted))
        own = [item for item in candidates if item.family == modality]
        some, basis = _chosen_from(modality, own, share)
        choices += some
        remark = _made_do(own[0].tier)
        parts.append(
            (f"{modality}: " if len(counted) > 1 else "", {item.identity for item in own}, _with(basis, remark))
        )

    def sentence(shown: Sequence[Choice]) -> str:
        return "; ".join(
            name + basis([choice for choice in shown if choice.identity in identities])
            for name, identities, basis in parts
        )

    return choices, sentence


def _with(basis: Basis, remark: str) -> Basis:
    return lambda shown: basis(shown) + remark


def _chosen_from(modality: str, own: list[Candidate], share: int) -> tuple[list[Choice], Basis]:
    if modality in _VOLUMES:
        return choose_slices(own, share, region_of(item.header for item in own))
    if modality == "SM":
        return choose_tiles(own, share)
    return choose_views(own, share) if modality in PROJECTION_RADIOGRAPHS else choose_frames(own, share)


def _draw(
    choices: Sequence[Choice], drawn: dict[tuple[object, ...], RenderedImage | Unreadable]
) -> tuple[list[RenderedImage], list[LeftOut]]:
    """The images of the choices, each once: stills are often sent twice under two UIDs."""
    images, lost, seen = [], [], set()
    for choice in choices:
        key = (choice.identity, choice.frame, choice.window, choice.whole)
        if key not in drawn:
            drawn[key] = _guarded(_drawn, choice)
        result = drawn[key]
        if isinstance(result, RenderedImage):
            digest = hashlib.sha256(result.pixels.data).digest()
            if digest in seen:
                result = drawn[key] = Unreadable(Reason.DUPLICATE, "the image is a duplicate")
            else:
                # The same frame may be chosen for another reason in a later round.
                images.append(replace(result, reason=choice.reason))
            seen.add(digest)
        if isinstance(result, Unreadable):
            lost.append(LeftOut(choice.identity, choice.frame, result.reason, result.detail))
    return images, lost


def _useless(lost: Sequence[LeftOut], candidates: Sequence[Candidate]) -> set[str]:
    """The objects that lost images, apart from slices that look like others: a volume keeps them, in their places."""
    slices = {item.identity for item in candidates if item.modality in _VOLUMES}
    return {
        left.sop_instance_uid for left in lost if left.reason != Reason.DUPLICATE or left.sop_instance_uid not in slices
    }


def _drawn(choice: Choice) -> RenderedImage:
    if choice.whole:
        levels, steps = assemble(choice.header)
    else:
        levels, steps = render(choice.header, choice.frame, window=choice.window)
    warnings = quality.warnings_about(levels)
    pixels, geometry = framed(choice.header, levels)
    return RenderedImage(pixels, choice.identity, choice.frame, choice.reason, {**steps, **geometry}, warnings)


def _passed_over(item: Candidate) -> LeftOut:
    if item.tier == Tier.PRIMARY:
        detail = "too few primary images exist, and derived images were used"
        return LeftOut(item.identity, None, Reason.FEW_IMAGES, detail)
    return LeftOut(item.identity, None, Reason.BETTER_IMAGES, f"better images than {NAMES[item.tier]} exist")


def _made_do(tier: Tier) -> str:
    if tier == Tier.DERIVED:
        return " (derived images)"
    return f" (only {NAMES[tier]} were received)" if tier in (Tier.SECONDARY, Tier.LOCALIZER) else ""


def _modality_of(images: Sequence[RenderedImage], candidates: Sequence[Candidate]) -> str:
    modalities = {item.identity: item.modality for item in candidates}
    return Counter(modalities[image.sop_instance_uid] for image in images).most_common(1)[0][0]


def _nothing(left_out: Sequence[LeftOut]) -> Outcome:
    causes = Counter((left.reason, left.detail) for left in left_out)
    if not causes:
        return NotReportable(Reason.NO_IMAGES, "the study contains no images")
    (reason, detail), _ = causes.most_common(1)[0]
    if reason == Reason.MISSING:
        # Of the storage, not of the study: it may come back.
        return TransientFailure(Reason.MISSING_FILES, "the stored files of the study are missing")
    return NotReportable(reason, f"no image of the study can be used; most frequent cause: {detail}")
