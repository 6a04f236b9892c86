"""A report of a resident model is written again, word for word, from what is stored."""

from __future__ import annotations

import io
import uuid
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from db.settings import Settings
from tests.unit.worker.fakes import CASE, FakeIndex
from tests.unit.worker.test_pipeline import radiograph
from worker.model.resident_model import ResidentModel
from worker.pipeline.pipeline import Pipeline, StudyToReport
from worker.pipeline.rewriting import StoredPart, UsedPrompt, differences, write_again
from worker.prompting.report import QuotedCase
from worker.prompting.wording import version_of
from worker.retrieval.index import Neighbour

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = "Impression: " + " ".join(f"Nodule of {n} mm in the right upper zone." for n in range(1, 120))


@pytest.fixture
def resident(random_checkpoint: Path) -> Iterator[ResidentModel]:
    model = ResidentModel.load(random_checkpoint, device="cpu", slots=1, context_tokens=1024)
    yield model
    model.close()


def test_long_reports_fit_and_the_text_is_written_again(resident: ResidentModel, tmp_path: Path) -> None:
    index = FakeIndex(others=[Neighbour(uuid.UUID(int=n), 0.8) for n in (2, 3)])
    settings = Settings(max_new_tokens=24)
    pipeline = Pipeline(resident, index, lambda ids: dict.fromkeys(ids, LONG), settings)
    draft = pipeline.run(StudyToReport([radiograph(tmp_path)]), lambda: None)
    (part,) = draft.provenance["parts"]
    images = [np.asarray(Image.open(io.BytesIO(shown.png)).convert("RGB")) for shown in draft.images]
    cases = [QuotedCase(quoted.quoted, quoted.similarity) for quoted in draft.evidence]
    used = part["prompt"]
    prompt = UsedPrompt(
        version_of(draft.prompt_version), "DX", "CHEST", cases, images, used["max_new_tokens"], used["sha256"]
    )

    again = write_again([StoredPart(part["name"], part["text"], prompt)], resident, deadline_seconds=60)

    assert draft.evidence[0].case_id == CASE
    assert all(resident.text_tokens(quoted.quoted) <= 96 for quoted in draft.evidence)
    assert prompt.complete
    assert list(differences((draft.findings, draft.impression), again)) == []
    assert draft.provenance["model"]["number_format"] == "float32"
