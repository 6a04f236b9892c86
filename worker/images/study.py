"""Select, decode and render the images of a study: headers -> candidates -> selections -> images.

Only selected frames are decoded. A frame that fails is left out, with its reason, and the selection is repeated.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from db.errors import NotReportable, Outcome, Reason, TransientFailure
from db.logs import frames
from db.studies.modalities import PROJECTION_RADIOGRAPHS
from worker.images.decode.files import read
from worker.images.errors import Unreadable
from worker.images.render import quality
from worker.images.render.framing import framed
from worker.images.render.orientation import orientation_of
from worker.images.render.render import render
from worker.images.select.body_parts import body_part_of
from worker.images.select.candidates import NAMES, Tier, best_of, candidate, modality_of, with_described_localizers
from worker.images.select.sampling import even_shares, select_frames
from worker.images.select.slides import assemble, select_tiles
from worker.images.select.views import select_views
from worker.images.select.volumes import select_slices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    from worker.images.select.candidates import Basis, Candidate, Selection

log = structlog.get_logger()
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")

#: Selections of one study: it is repeated when selected objects turn out to be damaged.
_MAX_ROUNDS = 20
#: Bytes of the headers of one study: thousands of slices take 10 MB, 100 000 frames of a slide 20 MB.
_MAX_HEADER_BYTES = 128 << 20
#: Modalities whose images are slices of volumes.
_VOLUMES = frozenset({"CT", "MR", "PT", "OPT"})


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One stored object: its file, and the SOP Instance UID under which it was received."""

    path: Path
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class RenderedImage:
    """One input image of the model: *pixels* is uint8 [rows, columns, 3], *transform* the steps that produced them."""

    pixels: npt.NDArray[np.uint8]
    sop_instance_uid: str
    frame: int
    reason: str
    transform: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    #: Reason for which left and right may be reversed; empty if the header states the orientation.
    orientation_problem: str = ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An object, or one frame of it (from 0), that was not used."""

    sop_instance_uid: str
    frame: int | None
    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class StudyImages:
    """Images of a study, the basis of their selection, and the objects left out."""

    images: list[RenderedImage]
    left_out: list[LeftOut]
    #: "8 of 240 slices of series 3"
    basis: str
    modality: str
    #: CHEST, HEAD ...; empty if unknown.
    body_part: str

    @property
    def informative(self) -> bool:
        """True if at least one image can show a finding."""
        return any(not quality.WITHOUT_INFORMATION & set(image.warnings) for image in self.images)

    def limitations(self) -> list[str]:
        """Sentences about the images left out, one for each cause."""
        causes = Counter(left.detail for left in self.left_out)
        return [f"{n} {'images were' if n > 1 else 'image was'} not used: {cause}." for cause, n in causes.items()]


def images_of(
    instances: Sequence[StoredInstance],
    *,
    budget: int = 8,
    on_progress: Callable[[], None] = lambda: None,
    on_headers_read: Callable[[], None] = lambda: None,
) -> StudyImages:
    """Return at most *budget* images of a study; *on_progress* is called after each object and each rendering.

    Raises NotReportable, with the most frequent reason, if no image can be shown; TransientFailure if its files are
    missing.
    """
    found, left_out = _readable(instances, on_progress)
    on_headers_read()
    rendered: dict[tuple[object, ...], RenderedImage | Unreadable] = {}
    failed: dict[tuple[str, int | None], LeftOut] = {}
    for _ in range(_MAX_ROUNDS):
        best = best_of(found)
        selections, basis = _select(best, budget)
        images, lost = _render_all(selections, rendered, on_progress)
        failed |= {(left.sop_instance_uid, left.frame): left for left in lost}
        # A run with one damaged frame still has the others.
        unusable = _unusable(lost, best) - {image.sop_instance_uid for image in images}
        found = [item for item in found if item.sop_instance_uid not in unusable]
        if not unusable:
            break
    left_out += failed.values()
    if not images:
        raise _no_image(left_out)
    used = {item.sop_instance_uid for item in best}
    left_out += [_not_selected(item) for item in found if item.sop_instance_uid not in used]
    modality, body_part = _modality_of(images, best), body_part_of(item.header for item in best)
    return StudyImages(images, left_out, basis(_rendered_of(images, selections)), modality, body_part)


def _readable(
    instances: Sequence[StoredInstance], on_progress: Callable[[], None]
) -> tuple[list[Candidate], list[LeftOut]]:
    found: list[Candidate] = []
    left_out: list[LeftOut] = []
    available = _MAX_HEADER_BYTES
    for instance in instances:
        on_progress()
        result = _guarded(partial(_read, limit=available), instance)
        if isinstance(result, Unreadable):
            left_out.append(LeftOut(instance.sop_instance_uid, None, result.reason, result.detail))
        else:
            found.append(result)
            available -= result.header.bytes_kept
    return with_described_localizers(found), left_out


def _read(instance: StoredInstance, *, limit: int) -> Candidate:
    header = read(instance.path)
    if header.bytes_kept > limit:
        raise Unreadable(Reason.TOO_LARGE, f"the headers of the study exceed {_MAX_HEADER_BYTES >> 20} MiB")
    return candidate(instance.sop_instance_uid, header)


def _guarded(work: Callable[[_Argument], _Result], argument: _Argument) -> _Result | Unreadable:
    """Return the result of *work* for one object, or its error: one bad object must not cost the study its report.

    Raises OSError and MemoryError: they concern the machine, and may be transient.
    """
    try:
        return work(argument)
    except Unreadable as problem:
        return problem
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - process boundary: an object from outside must not end the others
        log.warning("object.failed", error=type(error).__name__, frames=frames(error))
        return Unreadable(Reason.UNDECODABLE, "the object could not be processed")


def _rendered_of(images: Sequence[RenderedImage], selections: Sequence[Selection]) -> list[Selection]:
    """Return the selections that became images."""
    shown = {(image.sop_instance_uid, image.frame) for image in images}
    return [selection for selection in selections if (selection.sop_instance_uid, selection.frame) in shown]


def _select(candidates: Sequence[Candidate], budget: int) -> tuple[list[Selection], Basis]:
    """Share the budget among the modalities of a study (PET and CT), the one with most objects first."""
    counted = Counter(item.family for item in candidates).most_common(budget)
    selections: list[Selection] = []
    parts: list[tuple[str, set[str], Basis, str]] = []
    for (modality, _), share in zip(counted, even_shares(budget, len(counted)), strict=True):
        own = [item for item in candidates if item.family == modality]
        some, basis = _select_from(modality, own, share)
        selections += some
        prefix = f"{modality}: " if len(counted) > 1 else ""
        parts.append((prefix, {item.sop_instance_uid for item in own}, basis, _tier_note(own[0].tier)))

    def sentence(shown: Sequence[Selection]) -> str:
        return "; ".join(
            prefix + basis([selection for selection in shown if selection.sop_instance_uid in uids]) + note
            for prefix, uids, basis, note in parts
        )

    return selections, sentence


def _select_from(modality: str, own: list[Candidate], share: int) -> tuple[list[Selection], Basis]:
    if modality in _VOLUMES:
        return select_slices(own, share, body_part_of(item.header for item in own))
    if modality == "SM":
        return select_tiles(own, share)
    return select_views(own, share) if modality in PROJECTION_RADIOGRAPHS else select_frames(own, share)


def _render_all(
    selections: Sequence[Selection],
    rendered: dict[tuple[object, ...], RenderedImage | Unreadable],
    on_progress: Callable[[], None],
) -> tuple[list[RenderedImage], list[LeftOut]]:
    """Render the selections, each image once: stills are often sent twice under two UIDs."""
    images, lost, digests = [], [], set()
    for selection in selections:
        key = (selection.sop_instance_uid, selection.frame, selection.window, selection.assembled)
        if key not in rendered:
            rendered[key] = _guarded(_render, selection)
            on_progress()
        result = rendered[key]
        if isinstance(result, RenderedImage):
            digest = hashlib.sha256(result.pixels.data).digest()
            if digest in digests:
                result = rendered[key] = Unreadable(Reason.DUPLICATE, "the image is a duplicate")
            else:
                # The same frame may be selected for another reason in a later round.
                images.append(replace(result, reason=selection.reason))
            digests.add(digest)
        if isinstance(result, Unreadable):
            lost.append(LeftOut(selection.sop_instance_uid, selection.frame, result.reason, result.detail))
    return images, lost


def _unusable(lost: Sequence[LeftOut], candidates: Sequence[Candidate]) -> set[str]:
    """Return the objects that lost images, except slices that equal others: a volume keeps those in their positions."""
    slices = {item.sop_instance_uid for item in candidates if item.modality in _VOLUMES}
    return {
        left.sop_instance_uid for left in lost if left.reason != Reason.DUPLICATE or left.sop_instance_uid not in slices
    }


def _render(selection: Selection) -> RenderedImage:
    if selection.assembled:
        levels, steps = assemble(selection.header)
    else:
        levels, steps = render(selection.header, selection.frame, window=selection.window)
    warnings = quality.warnings_about(levels)
    pixels, geometry = framed(selection.header, levels)
    modality = modality_of(selection.header)
    orientation = orientation_of(selection.header, selection.frame, modality, volume=selection.volume)
    return RenderedImage(
        orientation.turn.of_pixels(pixels),
        selection.sop_instance_uid,
        selection.frame,
        selection.reason,
        {**steps, **geometry, **orientation.recorded()},
        warnings,
        orientation.problem,
    )


def _not_selected(item: Candidate) -> LeftOut:
    reason, detail = Reason.BETTER_IMAGES, f"better images than {NAMES[item.tier]} exist"
    if item.tier == Tier.PRIMARY:
        reason, detail = Reason.FEW_IMAGES, "too few primary images exist, and derived images were used"
    return LeftOut(item.sop_instance_uid, None, reason, detail)


def _tier_note(tier: Tier) -> str:
    if tier == Tier.DERIVED:
        return " (derived images)"
    return f" (only {NAMES[tier]} were received)" if tier in (Tier.SECONDARY, Tier.LOCALIZER) else ""


def _modality_of(images: Sequence[RenderedImage], candidates: Sequence[Candidate]) -> str:
    modalities = {item.sop_instance_uid: item.modality for item in candidates}
    return Counter(modalities[image.sop_instance_uid] for image in images).most_common(1)[0][0]


def _no_image(left_out: Sequence[LeftOut]) -> Outcome:
    causes = Counter((left.reason, left.detail) for left in left_out)
    if not causes:
        return NotReportable(Reason.NO_IMAGES, "the study contains no images")
    (reason, detail), _ = causes.most_common(1)[0]
    if reason == Reason.MISSING:
        # A fault of the storage, not of the study: the files may come back.
        return TransientFailure(Reason.MISSING_FILES, "the stored files of the study are missing")
    return NotReportable(reason, f"no image of the study can be used; most frequent cause: {detail}")
