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
from tests.unit.worker.fakes import CASE, FakeIndex, FakeModel
from worker.findings.labeller import present
from worker.images.study import StoredInstance
from worker.pipeline import References, StudyToReport, write_report
from worker.retrieval.index import Neighbour
from worker.retrieval.out_of_distribution import OodResult

if TYPE_CHECKING:
    from pathlib import Path

    from db.reports.versions import Draft

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def radiograph(folder: Path, *, blank: bool = False, name: str = "dx.dcm", turned: bool = False) -> StoredInstance:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = DX
    image = Dataset()
    image.file_meta = meta
    image.SOPClassUID, image.SOPInstanceUID = DX, generate_uid()
    image.StudyInstanceUID, image.SeriesInstanceUID = generate_uid(), generate_uid()
    image.Modality, image.BodyPartExamined, image.SeriesNumber = "DX", "CHEST", 1
    image.Rows, image.Columns, image.SamplesPerPixel = 96, 128, 1
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PhotometricInterpretation = "MONOCHROME2"
    ramp = np.add.outer(np.arange(96), np.arange(128)).astype(np.uint16) * 10
    image.PixelData = (ramp * 0 if blank else ramp[::-1] if turned else ramp).tobytes()
    image.save_as(folder / name, enforce_file_format=True)
    return StoredInstance(folder / name, image.SOPInstanceUID)


def write(
    instances: list[StoredInstance],
    model: Any,
    index: FakeIndex | None = None,
    on_progress: Any = lambda: None,
    *,
    ood_reject: bool = True,
    **study: Any,
) -> Draft:
    references = References(index, lambda ids: dict.fromkeys(ids, "No effusion."), ood_reject=ood_reject)
    return write_report(StudyToReport(instances, **study), model, references, budget=8, on_progress=on_progress)


def test_a_report_has_its_sections_its_basis_and_the_images_the_model_saw(tmp_path: Path) -> None:
    model = FakeModel()
    draft = write([radiograph(tmp_path)], model)

    assert (draft.findings, draft.impression) == ("Clear lungs.", "Normal.")
    assert "1 of 1" in draft.basis
    (image,) = draft.images
    assert Image.open(io.BytesIO(image.png)).size[::-1] == model.shown[0][:2]
    assert draft.provenance["versions"]["pydicom"]


def test_similar_cases_go_into_the_prompt_and_into_the_evidence(tmp_path: Path) -> None:
    model, index = FakeModel(), FakeIndex()
    draft = write([radiograph(tmp_path)], model, index, patient_hash="p", study_hash="s")

    assert [(quoted.case_id, quoted.excerpt) for quoted in draft.evidence] == [(CASE, "No effusion.")]
    assert "(1, 0.90) No effusion." in model.questions[0]
    assert (index.searches[0]["patient_hash"], index.searches[0]["study_hash"]) == ("p", "s")
    assert index.searches[0]["modality"] == "DX"


def test_a_blank_image_gets_no_words_of_the_model_or_of_its_neighbours(tmp_path: Path) -> None:
    model = FakeModel()
    draft = write([radiograph(tmp_path, blank=True)], model, FakeIndex())

    assert model.questions == []
    assert draft.evidence == []
    assert draft.impression == "Not diagnostic."


def test_images_unlike_the_reference_set_get_no_words_of_the_model_and_say_why(tmp_path: Path) -> None:
    model, index = (
        FakeModel(),
        FakeIndex(ood=OodResult(scores=[4.2], reference_images=250, can_reject=True, threshold=2.0, min_similarity=-1)),
    )
    draft = write([radiograph(tmp_path)], model, index)

    assert (model.questions, draft.evidence, index.searches) == ([], [], [])
    assert draft.impression == "Not diagnostic as chest x-ray image."
    assert not present(draft.findings)
    assert draft.basis.endswith("refused beside 250 reference images")
    assert any("z 4.2 to 4.2, limit 2" in remark for remark in draft.remarks)
    assert draft.provenance["z"] == [4.2]


@pytest.mark.parametrize(("can_reject", "refuse"), [(False, True), (True, False)])
def test_where_nothing_may_be_refused_a_strange_image_is_read_alone_and_marked(
    tmp_path: Path, can_reject: bool, refuse: bool
) -> None:
    model, index = (
        FakeModel(),
        FakeIndex(
            ood=OodResult(scores=[4.2], reference_images=5, can_reject=can_reject, threshold=2.0, min_similarity=-1)
        ),
    )
    draft = write([radiograph(tmp_path)], model, index, ood_reject=refuse)

    assert draft.impression == "Normal."
    assert index.searches == []
    assert "Written without similar earlier cases, to be read with care." in draft.remarks


def test_only_images_of_the_kind_look_for_similar_cases(tmp_path: Path) -> None:
    index = FakeIndex(
        ood=OodResult(scores=[1.0, 3.0], reference_images=100, can_reject=True, threshold=2.0, min_similarity=-1)
    )
    draft = write(
        [radiograph(tmp_path, name="a.dcm"), radiograph(tmp_path, name="b.dcm", turned=True)], FakeModel(), index
    )

    assert index.searches[0]["images"] == 1
    assert len(draft.images) == 2
    assert any(remark.startswith("Image 2: unlike the reference images of DX (z 3.0") for remark in draft.remarks)


def test_a_case_that_is_only_the_nearest_of_unlike_ones_is_not_quoted_and_the_report_says_so(tmp_path: Path) -> None:
    unlike = OodResult(scores=[1.0], reference_images=100, can_reject=True, threshold=2.0, min_similarity=0.95)
    model = FakeModel()
    draft = write([radiograph(tmp_path)], model, FakeIndex(ood=unlike))

    assert "No effusion." not in model.questions[0]
    assert draft.evidence == []
    assert "Written without similar earlier cases: none of DX is similar enough (0.900, least 0.950)." in draft.remarks
    assert draft.provenance["least_similarity"] == 0.95


def test_of_the_nearest_cases_only_similar_ones_are_quoted(tmp_path: Path) -> None:
    between = OodResult(scores=[1.0], reference_images=100, can_reject=True, threshold=2.0, min_similarity=0.5)
    index = FakeIndex(ood=between, others=[Neighbour(uuid.UUID(int=2), 0.49)])
    draft = write([radiograph(tmp_path)], FakeModel(), index)

    assert [quoted.case_id for quoted in draft.evidence] == [CASE]
    assert not any("similar" in remark for remark in draft.remarks)


def test_a_tower_that_computes_no_numbers_fails_the_run_instead_of_spoiling_its_report(tmp_path: Path) -> None:
    class Overflowing(FakeModel):
        def patch_tokens(self, images: Any) -> Any:
            return super().patch_tokens(images) * np.nan

    with pytest.raises(TransientFailure, match="no finite numbers"):
        write([radiograph(tmp_path)], Overflowing(), FakeIndex())


def test_a_modality_without_reference_cases_is_reported_and_says_so(tmp_path: Path) -> None:
    draft = write([radiograph(tmp_path)], FakeModel(), FakeIndex(ood=None))

    assert draft.impression == "Normal."
    assert "Written without similar earlier cases: too few of DX in the reference index." in draft.remarks


def test_a_report_says_that_it_was_written_without_similar_cases(tmp_path: Path) -> None:
    assert any("no reference index" in remark for remark in write([radiograph(tmp_path)], FakeModel()).remarks)


def test_a_text_cut_short_says_so(tmp_path: Path) -> None:
    draft = write([radiograph(tmp_path)], FakeModel(finish_reason="length"))

    assert "The text was cut short (length)." in draft.remarks


def test_a_later_version_says_what_came_late(tmp_path: Path) -> None:
    draft = write([radiograph(tmp_path)], FakeModel(), late_arrivals=["2 images of series 4 arrived 14 min later"])

    assert draft.remarks[0] == "New in this version: 2 images of series 4 arrived 14 min later."


def test_an_empty_text_is_tried_again(tmp_path: Path) -> None:
    with pytest.raises(TransientFailure, match="empty_report"):
        write([radiograph(tmp_path)], FakeModel(text=" "))


def test_images_that_cannot_be_shown_make_the_study_not_reportable(tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(b"not DICOM at all")

    with pytest.raises(NotReportable):
        write([StoredInstance(broken, "2.25.1")], FakeModel())


def test_a_job_that_was_taken_away_stops_the_work(tmp_path: Path) -> None:
    def taken_away() -> None:
        raise StaleFence("gone")

    with pytest.raises(StaleFence):
        write([radiograph(tmp_path)], FakeModel(), on_progress=taken_away)


def test_the_lease_is_extended_while_the_engine_moves_on_and_not_while_it_hangs(tmp_path: Path) -> None:
    working, hanging = HangingModel(looks_with_progress=2), HangingModel(looks_with_progress=0)
    moved_on: list[None] = []

    write([radiograph(tmp_path)], hanging, on_progress=lambda: moved_on.append(None))
    without_progress = len(moved_on)
    moved_on.clear()
    write([radiograph(tmp_path)], working, on_progress=lambda: moved_on.append(None))

    assert len(moved_on) == without_progress + 2


class HangingModel(FakeModel):
    """Moves on before each of the first looks, then hangs for some looks, then answers."""

    def __init__(self, looks_with_progress: int) -> None:
        super().__init__()
        self.remaining = looks_with_progress

    def generate(self, question: str, images: Any) -> Future[Any]:
        answered = super().generate(question, images)
        model = self

        class Slow(Future[Any]):
            looks = 0

            def result(self, timeout: float | None = None) -> Any:  # noqa: ARG002 - the looks are counted, not timed
                self.looks += 1
                if self.looks <= model.remaining:
                    model.progress += 1
                if self.looks <= model.remaining + 3:
                    raise TimeoutError
                return answered.result()

        return Slow()
