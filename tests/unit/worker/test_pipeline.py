"""Study -> report, with real DICOM objects and a fake model."""

from __future__ import annotations

import io
import uuid
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from db.errors import NotReportable, StaleFence, TransientFailure
from db.settings import Settings
from tests.unit.worker.fakes import CASE, FakeIndex, FakeModel, compared
from worker.findings.labeller import present
from worker.images.study import StoredInstance
from worker.pipeline.pipeline import Pipeline, StudyToReport
from worker.retrieval.index import Neighbour

if TYPE_CHECKING:
    from pathlib import Path

    from db.reports.versions import Draft

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def radiograph(
    folder: Path, *, blank: bool = False, name: str = "dx.dcm", turned: bool = False, body_part: str = "CHEST"
) -> StoredInstance:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DX
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = DX, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.BodyPartExamined, image.SeriesNumber = "DX", body_part, 1
    image.Rows, image.Columns, image.SamplesPerPixel = 96, 128, 1
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PhotometricInterpretation, image.PatientOrientation = "MONOCHROME2", ["L", "F"]
    ramp = np.add.outer(np.arange(96), np.arange(128)).astype(np.uint16) * 10
    image.PixelData = (ramp * 0 if blank else ramp[::-1] if turned else ramp).tobytes()
    image.save_as(folder / name, enforce_file_format=True)
    return StoredInstance(folder / name, image.SOPInstanceUID)


def write(
    instances: list[StoredInstance],
    model: Any,
    index: FakeIndex | None = None,
    on_progress: Any = lambda: None,
    settings: Settings = Settings(),  # noqa: B008 - frozen
    **study: Any,
) -> Draft:
    pipeline = Pipeline(model, index, lambda ids: dict.fromkeys(ids, "No effusion."), settings)
    return pipeline.run(StudyToReport(instances, **study), on_progress)


def test_report_has_sections_basis_and_the_images_given_to_the_model(tmp_path: Path) -> None:
    model = FakeModel()
    draft = write([radiograph(tmp_path)], model)

    assert (draft.findings, draft.impression) == ("Clear lungs.", "Normal.")
    assert draft.basis == "1 of 1 views"
    (image,) = draft.images
    assert Image.open(io.BytesIO(image.png)).size[::-1] == model.requests[0].images[0].shape[:2]
    assert draft.provenance["versions"]["pydicom"]
    assert [orientation["to"] for orientation in draft.provenance["orientation"]] == ["L\\F"]


def test_generation_is_limited_as_configured(tmp_path: Path) -> None:
    model = FakeModel()
    write([radiograph(tmp_path)], model, settings=Settings(max_new_tokens=7, report_deadline_seconds=3.0))

    (request,) = model.requests
    assert (request.max_new_tokens, request.deadline_seconds) == (7, 3.0)


def test_similar_cases_are_in_prompt_and_evidence(tmp_path: Path) -> None:
    model, index = FakeModel(), FakeIndex()
    draft = write([radiograph(tmp_path)], model, index, patient_hashes=frozenset("p"), study_hash="s")

    assert [(quoted.case_id, quoted.excerpt) for quoted in draft.evidence] == [(CASE, "No effusion.")]
    assert "(1, 0.90) No effusion." in model.requests[0].question
    assert (index.searches[0]["patient_hashes"], index.searches[0]["study_hash"]) == ({"p"}, "s")
    assert (index.searches[0]["modality"], index.searches[0]["body_part"]) == ("DX", "CHEST")


def test_blank_image_is_given_neither_to_the_model_nor_to_retrieval(tmp_path: Path) -> None:
    model, index = FakeModel(), FakeIndex()
    draft = write([radiograph(tmp_path, blank=True)], model, index)

    assert (model.requests, draft.evidence, index.searches) == ([], [], [])
    assert draft.impression == "Not diagnostic."


def test_out_of_distribution_study_is_rejected_without_the_model(tmp_path: Path) -> None:
    model, index = FakeModel(), FakeIndex(ood=compared(4.2, reference_images=250))
    draft = write([radiograph(tmp_path)], model, index)

    assert (model.requests, draft.evidence, index.searches) == ([], [], [])
    assert draft.impression == "No impression: the images were not analysed."
    assert not present(draft.findings)
    for text in (draft.basis, draft.findings):
        assert "out of distribution for chest x-ray images (reference set: 250 images)" in text
    assert (draft.provenance["z"], draft.provenance["refused"]) == ([4.2], True)


@pytest.mark.parametrize(("can_reject", "ood_reject"), [(False, True), (True, False)])
def test_out_of_distribution_study_that_may_not_be_rejected_is_read_without_similar_cases(
    tmp_path: Path, can_reject: bool, ood_reject: bool
) -> None:
    model, index = FakeModel(), FakeIndex(ood=compared(4.2, can_reject=can_reject))
    draft = write([radiograph(tmp_path)], model, index, settings=Settings(ood_reject=ood_reject))

    assert draft.impression == "Normal."
    assert index.searches == []
    assert any("the report may be unreliable" in sentence for sentence in draft.limitations)


def test_only_in_distribution_images_are_used_for_retrieval(tmp_path: Path) -> None:
    index = FakeIndex(ood=compared(1.0, 3.0))
    draft = write(
        [radiograph(tmp_path, name="a.dcm"), radiograph(tmp_path, name="b.dcm", turned=True)], FakeModel(), index
    )

    assert index.searches[0]["images"] == 1
    assert len(draft.images) == 2


def test_nearest_case_below_the_similarity_threshold_is_not_quoted(tmp_path: Path) -> None:
    model = FakeModel()
    draft = write([radiograph(tmp_path)], model, FakeIndex(ood=compared(1.0, min_similarity=0.95)))

    assert "No effusion." not in model.requests[0].question
    assert draft.evidence == []
    assert any("similarity 0.900, threshold 0.950" in sentence for sentence in draft.limitations)
    assert draft.provenance["least_similarity"] == 0.95


def test_only_similar_cases_of_the_nearest_are_quoted(tmp_path: Path) -> None:
    index = FakeIndex(ood=compared(1.0, min_similarity=0.5), others=[Neighbour(uuid.UUID(int=2), 0.49)])
    draft = write([radiograph(tmp_path)], FakeModel(), index)

    assert [quoted.case_id for quoted in draft.evidence] == [CASE]
    assert draft.limitations == []


def test_case_deleted_since_the_snapshot_is_not_quoted(tmp_path: Path) -> None:
    model = FakeModel()
    draft = Pipeline(model, FakeIndex(), lambda _: {}, Settings()).run(
        StudyToReport([radiograph(tmp_path)]), lambda: None
    )

    assert draft.evidence == []
    assert "similar cases" not in model.requests[0].question


def test_non_finite_vision_tokens_fail_the_attempt(tmp_path: Path) -> None:
    class Overflowing(FakeModel):
        def patch_tokens(self, images: Any) -> Any:
            return super().patch_tokens(images) * np.nan

    with pytest.raises(TransientFailure, match="non-finite numbers"):
        write([radiograph(tmp_path)], Overflowing(), FakeIndex())


def test_modality_without_reference_cases_is_reported(tmp_path: Path) -> None:
    draft = write([radiograph(tmp_path)], FakeModel(), FakeIndex(ood=None))

    assert draft.impression == "Normal."
    assert any("too few cases of modality DX" in sentence for sentence in draft.limitations)


def test_missing_index_and_token_limit_are_limitations(tmp_path: Path) -> None:
    draft = write([radiograph(tmp_path)], FakeModel(finish_reason="length"))

    assert draft.limitations == [
        "The text was cut off at the token limit.",
        "Not validated here: no reference index exists for this model. Verify every finding against the images.",
        "No similar earlier cases were quoted: no reference index exists for this model.",
    ]


def test_late_arrivals_come_first_among_the_limitations(tmp_path: Path) -> None:
    draft = write([radiograph(tmp_path)], FakeModel(), late_arrivals=["2 images of series 4 arrived 14 min later"])

    assert draft.limitations[0] == "New in this version: 2 images of series 4 arrived 14 min later."


def test_empty_text_is_a_transient_failure(tmp_path: Path) -> None:
    with pytest.raises(TransientFailure, match="empty_report"):
        write([radiograph(tmp_path)], FakeModel(text=" "))


def test_unreadable_images_make_the_study_not_reportable(tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"not DICOM at all")

    with pytest.raises(NotReportable):
        write([StoredInstance(broken, "2.25.1")], FakeModel())


def test_stale_fence_stops_the_run(tmp_path: Path) -> None:
    def taken_away() -> None:
        raise StaleFence("gone")

    with pytest.raises(StaleFence):
        write([radiograph(tmp_path)], FakeModel(), on_progress=taken_away)


def test_progress_is_reported_while_the_engine_steps_and_not_while_it_hangs(tmp_path: Path) -> None:
    stepping, hanging = SlowModel(polls_with_progress=2), SlowModel(polls_with_progress=0)
    calls: list[None] = []

    write([radiograph(tmp_path)], hanging, on_progress=lambda: calls.append(None))
    without_progress = len(calls)
    calls.clear()
    write([radiograph(tmp_path)], stepping, on_progress=lambda: calls.append(None))

    assert len(calls) == without_progress + 2


def test_every_step_is_timed_and_every_image_is_progress(tmp_path: Path) -> None:
    calls: list[None] = []
    instances = [radiograph(tmp_path, name="a.dcm"), radiograph(tmp_path, name="b.dcm", turned=True)]

    draft = write(instances, FakeModel(), FakeIndex(), on_progress=lambda: calls.append(None))

    steps = ["headers", "render", "encode", "patch_tokens", "retrieval", "quote", "prompt", "generation"]
    parts = ["generation_queue", "generation_vision", "generation_prefill"]
    assert set(draft.provenance["seconds"]) == {*steps, *parts}
    # Each image is read, rendered, encoded and embedded.
    assert len(calls) == len(steps) + 4 * len(instances)


class SlowModel(FakeModel):
    """Steps before each of the first polls, then hangs for some polls, then answers."""

    def __init__(self, polls_with_progress: int) -> None:
        super().__init__()
        self.remaining = polls_with_progress

    def submit(self, request: Any) -> Future[Any]:
        answered = super().submit(request)
        model = self

        class Slow(Future[Any]):
            polls = 0

            def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - polls are counted, not timed
                self.polls += 1
                if self.polls <= model.remaining:
                    model.progress += 1
                if self.polls <= model.remaining + 3:
                    raise TimeoutError
                return answered.result()

        return Slow()
