"""Write a report again from its provenance and print the difference; names what is missing."""

from __future__ import annotations

import io
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from sqlalchemy import select

from db.errors import ImageDamaged, NotPossible, Outcome
from db.models import Report
from db.reports import image_files, versions
from db.session import reading
from db.studies import lifecycle
from worker.findings.labeller import LABELLER_VERSION
from worker.pipeline.rewriting import StoredPart, UsedPrompt, differences, write_again
from worker.prompting.report import QuotedCase, SpecialistDraft
from worker.prompting.wording import VERSIONS, Version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from rich.console import Console
    from sqlalchemy.orm import Session

    from db.models import ReportImage
    from db.settings import Settings
    from worker.model.port import Model

    RenderedImage = npt.NDArray[np.uint8]

#: Digits of a digest that are printed.
SHOWN_DIGITS = 12


@dataclass(frozen=True, slots=True)
class StoredReport:
    """A stored report, and sentences about what is missing to write it again exactly."""

    texts: tuple[str, str]
    model_digest: str
    provenance: dict[str, Any]
    parts: Sequence[StoredPart]
    missing: list[str] = field(default_factory=list)


def replay(settings: Settings, console: Console, name: str, version: int | None) -> bool:
    """Print the difference between a report and the same written again; return whether there is none.

    *name* is the id of a report, or a study, of which the current report or that *version* is meant. Raises
    UnknownStudy, ConfigurationError without a checkpoint, NotPossible if the report cannot be written again.
    """
    stored = read(settings, name, version)
    from worker.resident import load_model  # noqa: PLC0415 - torch, only if there is something to write

    model = load_model(settings)
    try:
        return compare(stored, model, console, deadline_seconds=settings.model.report_deadline_seconds)
    finally:
        model.close()


def compare(stored: StoredReport, model: Model, console: Console, *, deadline_seconds: float) -> bool:
    """Write the report again with *model* and print what is missing, then the difference; True if there is none."""
    for sentence in (*stored.missing, *_other_setup(stored, model)):
        console.print(f"not as then: {sentence}", markup=False, highlight=False)
    try:
        lines = list(differences(stored.texts, write_again(stored.parts, model, deadline_seconds=deadline_seconds)))
    except Outcome as error:
        raise NotPossible(f"the report cannot be written again: {error.detail}") from error
    console.print(*(lines or ["the same text, word for word"]), sep="\n", markup=False, highlight=False)
    return not lines


def _find(session: Session, name: str, version: int | None) -> Report:
    try:
        report = session.get(Report, uuid.UUID(name))
    except ValueError:
        report = None
    if report is not None:
        if version not in (None, report.version):
            raise NotPossible(f"the report is version {report.version}; give its study to choose another version")
        return report
    study = lifecycle.find(session, name)
    if version is None:
        report = versions.current(session, study.id)
    else:
        report = session.scalar(select(Report).where(Report.study_id == study.id, Report.version == version))
    if report is None:
        raise NotPossible("the study has no such report; `prelim show` prints the current one")
    return report


def read(settings: Settings, name: str, number: int | None = None) -> StoredReport:
    """Return a report as it is stored; raises UnknownStudy, NotPossible if its prompt or its images are not stored."""
    with reading(settings.database()) as session:
        report = _find(session, name, number)
        cases, rows = versions.evidence(session, report.id), versions.images(session, report.id, pixels=True)
        draft = versions.specialist_draft(session, report.id)
    parts = report.provenance.get("parts", [])
    if not parts or not all("prompt" in part for part in parts):
        raise NotPossible("the report was written by a release that did not store what its prompt was made of")
    version = next((known for known in VERSIONS if known == report.prompt_version), None)
    if version is None:
        raise NotPossible(f"this release has no prompt version {report.prompt_version}")
    images = _images(settings, rows)
    if len(images) != sum(part["images"] for part in parts):
        raise NotPossible("the images of the report are gone: `prelim retain` deleted them")
    stored = list(_parts(parts, version, images, cases, draft))
    missing = [f"similar earlier case {case.rank} was erased, with its words" for case in cases if case.case_id is None]
    incomplete = [part.name for part in stored if part.prompt and not part.prompt.complete]
    missing += [f"the prompt of {name} cannot be rebuilt word for word" for name in incomplete]
    if any(part["finish_reason"] == "deadline" for part in parts):
        missing.append("the text was cut off at a time limit, which depends on the load")
    texts = report.findings, report.impression
    return StoredReport(texts, report.model_digest, report.provenance, stored, missing)


def _images(settings: Settings, rows: Sequence[ReportImage]) -> list[RenderedImage]:
    try:
        files = [image_files.read(settings.operations.data_dir, row) for row in rows]
    except ImageDamaged as error:
        raise NotPossible(f"the report cannot be written again: {error}") from error
    return [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]


def _parts(
    parts: Sequence[dict[str, Any]],
    version: Version,
    images: Sequence[RenderedImage],
    cases: Sequence[versions.EvidenceLine],
    draft: versions.QuotedDraft | None,
) -> Iterator[StoredPart]:
    image = case = 0
    case_0 = SpecialistDraft(f"{draft.name} {draft.version}", draft.quoted) if draft else None
    for part in parts:
        own = images[image : image + part["images"]]
        quoted = [QuotedCase(c.quoted or "", c.similarity) for c in cases[case : case + part["evidence"]]]
        image, case = image + part["images"], case + part["evidence"]
        used = part["prompt"]
        prompt = used and UsedPrompt(
            version, part["modality"], part["body_part"], quoted, own, used["max_new_tokens"], used["sha256"], case_0
        )
        yield StoredPart(part["name"], part["text"] or "", prompt)


def _other_setup(stored: StoredReport, model: Model) -> Iterator[str]:
    """Yield sentences about another checkpoint, number format, device or labeller than those of the report."""
    if model.digest != stored.model_digest:
        then, now = stored.model_digest[:SHOWN_DIGITS], model.digest[:SHOWN_DIGITS]
        yield f"another checkpoint ({then}, now {now})"
    before = {**stored.provenance.get("model", {}), "labeller": stored.provenance.get("labeller")}
    for name, now in {**model.setup, "labeller": LABELLER_VERSION}.items():
        if before.get(name) != now:
            yield f"another {name.replace('_', ' ')} ({before.get(name) or 'unknown'}, now {now})"
