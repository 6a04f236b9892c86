"""A report of the pipeline, stored in the database, read back and written again."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from db.errors import NotPossible
from db.models import ReferenceCase, Report, ReportImage
from db.reports import versions
from db.session import transaction
from db.settings import Settings
from deploy.operate.replay import compare, read, replay
from tests.integration.api.arrivals import Arrivals
from tests.unit.worker.fakes import FakeIndex, FakeModel
from tests.unit.worker.test_pipeline import radiograph
from worker.pipeline.pipeline import Pipeline, StudyToReport
from worker.retrieval.index import Neighbour

if TYPE_CHECKING:
    import uuid
    from pathlib import Path


WORDS = "Impression: Loculated left pleural effusion."


@pytest.fixture
def arrivals(database_url: str) -> Arrivals:
    return Arrivals(database_url)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, database_url=database_url)


@pytest.fixture
def study_id(arrivals: Arrivals, settings: Settings, tmp_path: Path) -> uuid.UUID:
    """A study whose report quotes one case."""
    with transaction(arrivals.url) as session:
        case = ReferenceCase(source="made", source_case="1", modality="DX", report=WORDS, labels=[])
        session.add(case)
        session.flush()
        case_id = case.id
    index = FakeIndex(others=[Neighbour(case_id, 0.8)])
    pipeline = Pipeline(FakeModel(), index, lambda _: {case_id: WORDS}, settings)
    draft = pipeline.run(StudyToReport([radiograph(tmp_path)]), lambda: None)
    return arrivals.reported(draft)


def replayed(settings: Settings, study_id: uuid.UUID, model: FakeModel) -> tuple[bool, str]:
    found = read(settings, str(study_id))
    console = Console(file=io.StringIO(), width=200)
    same = compare(found, model, console, deadline_seconds=9)
    return same, console.file.getvalue()  # type: ignore[attr-defined]


def test_same_model_writes_the_same_text_from_the_same_prompt(settings: Settings, study_id: uuid.UUID) -> None:
    model = FakeModel()

    assert replayed(settings, study_id, model) == (True, "the same text, word for word\n")
    assert "Loculated left pleural effusion." in model.requests[0].question


def test_other_checkpoint_number_format_and_text_are_named(settings: Settings, study_id: uuid.UUID) -> None:
    setup = {"number_format": "bfloat16", "quantization": "none"}
    model = FakeModel(text="Findings: Left nodule. Impression: Nodule.", digest="e" * 64, setup=setup)
    same, printed = replayed(settings, study_id, model)

    assert not same
    for line in (
        "another checkpoint (dddddddddddd, now eeeeeeeeeeee)",
        "another number format (float32, now bfloat16)",
    ):
        assert line in printed
    assert "+ finding: left nodule" in printed


def test_erasing_a_case_leaves_its_words_neither_in_provenance_nor_in_the_prompt(
    settings: Settings, study_id: uuid.UUID
) -> None:
    with transaction(settings.database()) as session:
        session.query(ReferenceCase).delete()
    model = FakeModel()
    same, printed = replayed(settings, study_id, model)

    assert same
    assert "similar earlier case 1 was erased, with its words" in printed
    assert "the prompt of DX CHEST cannot be rebuilt word for word" in printed
    assert "Loculated" not in model.requests[0].question
    with transaction(settings.database()) as session:
        report = session.query(Report).filter_by(study_id=study_id).one()
        assert "Loculated" not in json.dumps(report.provenance)


def test_report_is_not_replayed_as_another_version(settings: Settings, study_id: uuid.UUID) -> None:
    with transaction(settings.database()) as session:
        report = versions.current(session, study_id)
        assert report is not None
    with pytest.raises(NotPossible, match="the report is version 1; give its study"):
        replay(settings, Console(quiet=True), str(report.id), 2)


def test_report_without_its_images_cannot_be_replayed(settings: Settings, study_id: uuid.UUID) -> None:
    with transaction(settings.database()) as session:
        session.query(ReportImage).delete()
    with pytest.raises(NotPossible, match="images of the report are gone"):
        replayed(settings, study_id, FakeModel())


def test_report_of_an_earlier_release_cannot_be_replayed(settings: Settings, arrivals: Arrivals) -> None:
    draft: Any = replace(arrivals.draft(), prompt_version="1")
    with pytest.raises(NotPossible, match="release that did not store"):
        replayed(settings, arrivals.reported(draft), FakeModel())
