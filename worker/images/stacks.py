"""Render the selections of a study: those of one stack with one crop and one window, so that they can be compared."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import structlog

from db.errors import Reason
from db.logs import frames
from worker.images.errors import Unreadable
from worker.images.render import quality
from worker.images.render.framing import content_box, framed
from worker.images.render.grayscale import PERCENTILES
from worker.images.render.header_warnings import header_warnings
from worker.images.render.orientation import laterality_of, orientation_of
from worker.images.render.render import render
from worker.images.render.windows import Window, header_windows
from worker.images.select.candidates import modality_of
from worker.images.select.slides import assemble
from worker.images.study_images import RenderedImage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy.typing as npt

    from worker.images.render.framing import Box
    from worker.images.select.candidates import Selection

log = structlog.get_logger()
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class _Drawing:
    """A selection as levels at full size, with their steps, and the digest of the levels as first drawn."""

    selection: Selection
    levels: npt.NDArray[np.uint8]
    steps: dict[str, Any]
    digest: bytes


def stacks_of(selections: Sequence[Selection]) -> Iterator[list[Selection]]:
    """Yield the selections of each stack, in the order of their first; a selection without a stack is alone."""
    stacks: dict[object, list[Selection]] = {}
    for number, selection in enumerate(selections):
        stacks.setdefault(selection.stack or number, []).append(selection)
    yield from stacks.values()


def render_stack(stack: Sequence[Selection], on_progress: Callable[[], None]) -> list[RenderedImage | Unreadable]:
    """Render the selections of one stack; *on_progress* is called after each."""

    def drawn(selection: Selection) -> _Drawing | Unreadable:
        result = guarded(_draw, selection)
        on_progress()
        return result

    drawings = [drawn(selection) for selection in stack]
    for place, window in _common_windows(drawings).items():
        alone, alike = drawings[place], drawn(replace(stack[place], window=window))
        if isinstance(alone, _Drawing) and isinstance(alike, _Drawing):
            # Another stack may hold the same frame, but its window depends on the other frames.
            alike = replace(alike, digest=alone.digest)
        drawings[place] = alike
    finish = partial(_finished, boxes=[box for each in drawings if isinstance(each, _Drawing) and (box := _box(each))])
    return [each if isinstance(each, Unreadable) else guarded(finish, each) for each in drawings]


def guarded(work: Callable[[_Argument], _Result], argument: _Argument) -> _Result | Unreadable:
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


def _draw(selection: Selection) -> _Drawing:
    if selection.assembled:
        levels, steps = assemble(selection.header)
    else:
        levels, steps = render(selection.header, selection.frame, window=selection.window)
    return _Drawing(selection, levels, steps, hashlib.sha256(np.ascontiguousarray(levels).data).digest())


def _common_windows(drawings: Sequence[_Drawing | Unreadable]) -> dict[int, Window]:
    """Return windows for the images to be drawn again, by place: those drawn by percentiles, each by its own.

    They get the window of their header if it shows the other images, else the mean of all their percentiles.
    """
    own = {
        place: each
        for place, each in enumerate(drawings)
        if isinstance(each, _Drawing) and each.selection.window is None
    }
    alone = {place: each for place, each in own.items() if each.steps.get("voi") == PERCENTILES}
    if len(own) == 1 or not alone:
        return {}
    if shown := next((each.steps for each in own.values() if each.steps.get("voi") == "window"), None):
        other = Window(shown["center"], shown["width"], shown["function"])
        return {place: next(iter(header_windows(each.selection.header)), other) for place, each in alone.items()}
    center, width = (float(np.mean([each.steps[name] for each in alone.values()])) for name in ("center", "width"))
    return dict.fromkeys(alone, Window(center, width, source=f"{PERCENTILES} of the stack"))


def _box(drawing: _Drawing) -> Box | None:
    named = drawing.selection.window
    return content_box(drawing.selection.header, drawing.levels, named if named and named.name else None)


def _finished(drawing: _Drawing, boxes: Sequence[Box]) -> RenderedImage:
    selection, header = drawing.selection, drawing.selection.header
    modality = modality_of(header)
    pixels, geometry = framed(header, drawing.levels, boxes)
    orientation = orientation_of(header, selection.frame, modality, volume=selection.volume)
    return RenderedImage(
        orientation.turn.of_pixels(pixels),
        selection.sop_instance_uid,
        selection.frame,
        selection.reason,
        {**drawing.steps, **geometry, **orientation.recorded()},
        quality.warnings_about(drawing.levels) + header_warnings(header, modality, drawing.steps),
        orientation.problem,
        digest=drawing.digest + orientation.turn.name.encode(),
        laterality=laterality_of(header),
        view=header.code("ViewPosition"),
    )
