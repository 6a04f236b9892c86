"""Spans of an ended job, computed from its row: ids, codes, times and digests, never patient data.

A trace is a study: its id is the study's. Ids of spans are computed from the job, its end and the name, so that a span
that is sent twice is the same span, and the end of a job that was retried by a person is another one.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from db.states import JobState
from db.studies.priority import LEVELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from db.jobs.trace_queue import EndedJob

#: Steps of a worker in their order (worker.pipeline), of which only the durations are stored.
STEPS = ("headers", "render", "encode", "patch_tokens", "retrieval", "quote", "prompt", "generation")
#: Parts of the generation, which overlap where a study has several parts.
PARTS_OF_GENERATION = ("queue", "vision", "prefill")
PRIORITIES = {level: name.lower() for name, level in LEVELS.items() if name != "MEDIUM"}

Attributes = dict[str, str | int | float]


class Span(NamedTuple):
    """A part of a job's time; the span without a parent is the whole job."""

    trace: int
    id: int
    parent: int | None
    name: str
    begins: dt.datetime
    ends: dt.datetime
    attributes: Attributes
    #: Stable code of the failure; empty if it did not fail.
    failure: str = ""


def of_job(job: EndedJob) -> list[Span]:
    """Return the spans of a job, each after its parent."""
    root = Span(
        job.study_id.int,
        _id(job, job.kind),
        None,
        job.kind,
        min(job.arrived_at or job.queued_at, job.queued_at),
        max(job.finished_at, job.queued_at),
        _of_the_whole(job),
        (job.reason or job.state) if job.state == JobState.FAILED else "",
    )
    return [root, *_steps(job, root)]


def _of_the_whole(job: EndedJob) -> Attributes:
    found = {
        "prelim.study.id": str(job.study_id),
        "prelim.job.id": str(job.id),
        "prelim.job.state": job.state,
        "prelim.job.reason": job.reason,
        "prelim.job.attempts": job.attempt,
        "prelim.revision": job.revision,
        "prelim.priority": PRIORITIES.get(job.priority),
        "prelim.report.version": job.version,
        "prelim.model.digest": job.model_digest,
    }
    return {name: value for name, value in found.items() if value is not None}


def _steps(job: EndedJob, root: Span) -> Iterator[Span]:
    """Yield the steps of a job: settling, waiting for the last claim, writing."""
    if job.arrived_at is not None and job.settled_at is not None:
        yield _child(job, root, "settle", root.begins, min(job.settled_at, root.ends))
    claimed = job.claimed_at
    # The claim of an earlier end: a person retried the job, and cancelled it before the next claim.
    if claimed is not None and claimed < job.queued_at:
        claimed = None
    yield _child(job, root, "wait", job.queued_at, claimed or root.ends)
    if claimed is not None:
        worker: Attributes = {"prelim.worker": job.owner or "", "prelim.fence": job.fence}
        write = _child(job, root, "write", claimed, root.ends, worker)
        yield write
        yield from _steps_of_the_worker(job, write)


def _steps_of_the_worker(job: EndedJob, write: Span) -> Iterator[Span]:
    """Yield the steps whose durations are stored, one after the other from the claim on."""
    begins = write.begins
    for name in STEPS:
        seconds = _seconds(job, name)
        if seconds is None:
            continue
        ends = min(begins + dt.timedelta(seconds=seconds), write.ends)
        yield _child(job, write, name, begins, ends, _parts(job) if name == "generation" else None)
        begins = ends


def _parts(job: EndedJob) -> Attributes:
    found = {f"prelim.{part}_seconds": _seconds(job, f"generation_{part}") for part in PARTS_OF_GENERATION}
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def _seconds(job: EndedJob, step: str) -> float | None:
    found = (job.seconds or {}).get(step)
    return float(found) if isinstance(found, int | float) and found >= 0 else None


def _child(
    job: EndedJob,
    parent: Span,
    name: str,
    begins: dt.datetime,
    ends: dt.datetime,
    attributes: Attributes | None = None,
) -> Span:
    return Span(parent.trace, _id(job, name), parent.id, name, begins, max(begins, ends), attributes or {})


def _id(job: EndedJob, name: str) -> int:
    """Return the id of a span: 8 bytes, not all of them zero."""
    text = f"{job.id} {job.finished_at.astimezone(dt.UTC).isoformat()} {name}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) or 1
