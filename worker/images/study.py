"""Select, decode and render the images of a study: headers -> candidates -> selections -> images.

Only selected frames are decoded. A frame that fails is left out, with its reason, and the selection is repeated.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from db.errors import NotReportable, Outcome, Reason, TransientFailure
from worker.images.decode.files import read
from worker.images.errors import Unreadable
from worker.images.select.body_parts import name_of
from worker.images.select.candidates import NAMES, Tier, best_of, candidate, stable_order, with_described_localizers
from worker.images.select.copies import copies_of
from worker.images.select.groups import VOLUMES, choose, groups_of, with_body_parts
from worker.images.select.unread import assumed, contradictions, series_name, unread
from worker.images.stacks import guarded, render_stack, stacks_of
from worker.images.study_images import LeftOut, PartImages, RenderedImage, StudyImages

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from worker.images.decode.header import Header
    from worker.images.select.candidates import Candidate, Selection
    from worker.images.select.groups import Chosen

#: Selections of one study: it is repeated when selected objects turn out to be damaged.
_MAX_ROUNDS = 20
#: Bytes of the headers of one study: thousands of slices take 10 MB, 100 000 frames of a slide 20 MB.
_MAX_HEADER_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """One stored object: its file, and the SOP Instance UID under which it was received."""

    path: Path
    sop_instance_uid: str


def images_of(
    instances: Sequence[StoredInstance],
    *,
    budget: int = 8,
    on_progress: Callable[[], None] = lambda: None,
    on_headers_read: Callable[[], None] = lambda: None,
) -> StudyImages:
    """Return at most *budget* images of a study; *on_progress* is called after each object and each rendering.

    The order of *instances* has no influence. Raises NotReportable, with the most frequent reason, if no image can be
    shown; TransientFailure if its files are missing.
    """
    readable, left_out = _readable(sorted(instances, key=lambda instance: instance.sop_instance_uid), on_progress)
    on_headers_read()
    copies = copies_of(readable)
    found = [item for item in readable if item.sop_instance_uid not in copies]
    rendered: dict[tuple[object, ...], list[RenderedImage | Unreadable]] = {}
    failed: dict[tuple[str, int | None], LeftOut] = {}
    for _ in range(_MAX_ROUNDS):
        best = best_of(found)
        chosen = choose(groups_of(best), budget)
        images, lost = _render_all([each for one in chosen for each in one.selections], rendered, on_progress)
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
    lost_uids = {left.sop_instance_uid for left in left_out}
    left_out += [_not_selected(item) for item in found if item.sop_instance_uid not in used]
    shown = {image.sop_instance_uid for image in images}
    named = unread([item for item in readable if item.sop_instance_uid not in lost_uids - shown], chosen, shown, copies)
    remarks = contradictions(readable) + assumed(readable, shown)
    left_out = _without_shown(left_out, {item.series for item in readable if item.sop_instance_uid in shown})
    return StudyImages(_by_part(images, chosen), left_out, remarks + named)


def _by_part(images: Sequence[RenderedImage], chosen: Sequence[Chosen]) -> list[PartImages]:
    parts: list[PartImages] = []
    for one in chosen:
        uids = {item.sop_instance_uid for item in one.group.candidates}
        if own := [image for image in images if image.sop_instance_uid in uids]:
            basis = one.basis(_rendered_of(own, one.selections)) + _tier_note(one.group.tier)
            first = 1 + sum(len(part.images) for part in parts)
            parts.append(PartImages(own, basis, one.group.modality, name_of(one.group.parts), first))
    return parts


def _readable(
    instances: Sequence[StoredInstance], on_progress: Callable[[], None]
) -> tuple[list[Candidate], list[LeftOut]]:
    found: list[Candidate] = []
    left_out: list[LeftOut] = []
    available = _MAX_HEADER_BYTES
    for instance in instances:
        on_progress()
        header = guarded(partial(_read, limit=available), instance)
        if isinstance(header, Unreadable):
            left_out.append(LeftOut(instance.sop_instance_uid, None, header.reason, header.detail))
            continue
        result = guarded(partial(candidate, instance.sop_instance_uid), header)
        if isinstance(result, Unreadable):
            left_out.append(_left_out(instance.sop_instance_uid, None, header, result))
        else:
            found.append(result)
            available -= result.header.bytes_kept
    return sorted(with_body_parts(with_described_localizers(found)), key=stable_order), left_out


def _read(instance: StoredInstance, *, limit: int) -> Header:
    header = read(instance.path)
    if header.bytes_kept > limit:
        raise Unreadable(Reason.TOO_LARGE, f"the headers of the study exceed {_MAX_HEADER_BYTES >> 20} MiB")
    return header


def _left_out(uid: str, frame: int | None, header: Header, problem: Unreadable) -> LeftOut:
    series = header.text("SeriesInstanceUID")
    name = "" if problem.reason == Reason.NOT_AN_IMAGE else series_name(header)
    return LeftOut(uid, frame, problem.reason, problem.detail, series, name)


def _without_shown(left_out: Iterable[LeftOut], shown: Collection[str]) -> list[LeftOut]:
    """Return the same without the names of series of which an image is shown."""
    return [replace(left, series_name="") if left.series in shown else left for left in left_out]


def _rendered_of(images: Sequence[RenderedImage], selections: Sequence[Selection]) -> list[Selection]:
    """Return the selections that became images."""
    shown = {(image.sop_instance_uid, image.frame) for image in images}
    return [selection for selection in selections if (selection.sop_instance_uid, selection.frame) in shown]


def _render_all(
    selections: Sequence[Selection],
    rendered: dict[tuple[object, ...], list[RenderedImage | Unreadable]],
    on_progress: Callable[[], None],
) -> tuple[list[RenderedImage], list[LeftOut]]:
    """Render the selections, each image once: stills are often sent twice under two UIDs."""
    images: list[RenderedImage] = []
    lost: list[LeftOut] = []
    digests: set[bytes] = set()
    for stack in stacks_of(selections):
        key = tuple((each.sop_instance_uid, each.frame, each.window, each.assembled) for each in stack)
        if key not in rendered:
            rendered[key] = render_stack(stack, on_progress)
        rendered[key] = [_once(result, digests) for result in rendered[key]]
        for selection, result in zip(stack, rendered[key], strict=True):
            if isinstance(result, Unreadable):
                lost.append(_left_out(selection.sop_instance_uid, selection.frame, selection.header, result))
            else:
                # The same frame may be selected for another reason in a later round.
                images.append(replace(result, reason=selection.reason))
    return images, lost


def _once(result: RenderedImage | Unreadable, digests: set[bytes]) -> RenderedImage | Unreadable:
    """Return a result, or that it is a duplicate; its digest is added to *digests*."""
    if isinstance(result, Unreadable):
        return result
    if result.digest in digests:
        return Unreadable(Reason.DUPLICATE, "the image is a duplicate")
    digests.add(result.digest)
    return result


def _unusable(lost: Sequence[LeftOut], candidates: Sequence[Candidate]) -> set[str]:
    """Return the objects that lost images, except slices that equal others: a volume keeps those in their positions."""
    placed = {
        item.sop_instance_uid
        for item in candidates
        if item.family in VOLUMES and (item.header.frames > 1 or "ImagePositionPatient" in item.header)
    }
    return {
        left.sop_instance_uid for left in lost if left.reason != Reason.DUPLICATE or left.sop_instance_uid not in placed
    }


def _not_selected(item: Candidate) -> LeftOut:
    reason, detail = Reason.BETTER_IMAGES, f"better images than {NAMES[item.tier]} exist"
    if item.tier == Tier.PRIMARY:
        reason, detail = Reason.FEW_IMAGES, "too few primary images exist, and derived images were used"
    return LeftOut(item.sop_instance_uid, None, reason, detail)


def _tier_note(tier: Tier) -> str:
    if tier == Tier.DERIVED:
        return " (derived images)"
    return f" (only {NAMES[tier]} were received)" if tier in (Tier.SECONDARY, Tier.LOCALIZER) else ""


def _no_image(left_out: Sequence[LeftOut]) -> Outcome:
    causes = Counter((left.reason, left.detail) for left in left_out)
    if not causes:
        return NotReportable(Reason.NO_IMAGES, "the study contains no images")
    (reason, detail), _ = causes.most_common(1)[0]
    if reason == Reason.MISSING:
        # A fault of the storage, not of the study: the files may come back.
        return TransientFailure(Reason.MISSING_FILES, "the stored files of the study are missing")
    return NotReportable(reason, f"no image of the study can be used; most frequent cause: {detail}")
