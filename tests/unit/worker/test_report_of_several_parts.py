"""One report of a study with several body parts: a section, a prompt and a comparison for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from db.errors import TransientFailure
from tests.unit.worker.fakes import FakeIndex, FakeModel, compared
from tests.unit.worker.test_pipeline import radiograph, write

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    from worker.images.study import StoredInstance


class Naming(FakeModel):
    """Names in its text the image that the prompt names; *silent* about some."""

    silent: tuple[str, ...] = ()

    def submit(self, request: Any) -> Future[Any]:
        named = next(part for part in ("chest", "extremity", "spine") if f"{part} x-ray" in request.question)
        self.text = "" if named in self.silent else f"Findings: A {named}. Impression: Normal {named}."
        return super().submit(request)


class Partitioned(FakeIndex):
    """Rejects the images of one body part."""

    def compare(self, tokens: Any, **query: Any) -> Any:
        return compared(*[4.2] * len(tokens)) if query["body_part"] == "EXTREMITY" else compared(*[1.0] * len(tokens))


@pytest.fixture
def chest_and_knee(tmp_path: Path) -> list[StoredInstance]:
    return [
        radiograph(tmp_path, name="knee.dcm", body_part="KNEE", turned=True),
        radiograph(tmp_path, name="chest.dcm"),
    ]


def test_each_part_has_a_section_a_prompt_and_its_own_images(chest_and_knee: list[StoredInstance]) -> None:
    model, index = Naming(), FakeIndex()
    draft = write(chest_and_knee, model, index)

    assert draft.findings == "DX CHEST\nA chest.\n\nDX EXTREMITY\nA extremity."
    assert draft.impression == "DX CHEST\nNormal chest.\n\nDX EXTREMITY\nNormal extremity."
    assert draft.basis == "DX CHEST: 1 of 1 views; DX EXTREMITY: 1 of 1 views"
    assert [len(request.images) for request in model.requests] == [1, 1]
    assert [image.reason for image in draft.images] == ["DX CHEST, view 1 of 1", "DX EXTREMITY, view 1 of 1"]


def test_provenance_attributes_text_images_and_evidence_to_the_parts(chest_and_knee: list[StoredInstance]) -> None:
    draft = write(chest_and_knee, Naming(), FakeIndex())

    parts = draft.provenance["parts"]
    assert [(part["name"], part["images"], part["evidence"]) for part in parts] == [
        ("DX CHEST", 1, 1),
        ("DX EXTREMITY", 1, 1),
    ]
    assert len(draft.evidence) == 2
    assert draft.provenance["text"] == parts[0]["text"] == "Findings: A chest. Impression: Normal chest."


def test_a_part_out_of_distribution_does_not_cost_the_others_their_text(chest_and_knee: list[StoredInstance]) -> None:
    model = Naming()
    draft = write(chest_and_knee, model, Partitioned())

    assert len(model.requests) == 1
    assert draft.findings.startswith("DX CHEST\nA chest.\n\nDX EXTREMITY\nNot analysed: the images are out of")
    assert "; DX EXTREMITY: 1 of 1 views; not analysed: " in draft.basis
    assert [sentence.split(":")[0] for sentence in draft.limitations] == ["DX EXTREMITY", "DX EXTREMITY"]


def test_sentence_about_every_part_is_written_once(chest_and_knee: list[StoredInstance]) -> None:
    draft = write(chest_and_knee, Naming())

    assert draft.limitations == [
        "Not validated here: no reference index exists for this model. Verify every finding against the images.",
        "No similar earlier cases were quoted: no reference index exists for this model.",
    ]


def test_a_part_without_text_is_named(chest_and_knee: list[StoredInstance]) -> None:
    model = Naming()
    model.silent = ("extremity",)

    assert write(chest_and_knee, model).findings.endswith("DX EXTREMITY\nNot analysed: the model returned no text.")
    model.silent = ("extremity", "chest")
    with pytest.raises(TransientFailure, match="empty_report"):
        write(chest_and_knee, model)


def test_report_is_the_same_in_every_order_of_arrival(chest_and_knee: list[StoredInstance]) -> None:
    one, other = write(chest_and_knee, Naming()), write(chest_and_knee[::-1], Naming())

    for field in ("findings", "impression", "basis", "limitations", "images"):
        assert getattr(one, field) == getattr(other, field)
