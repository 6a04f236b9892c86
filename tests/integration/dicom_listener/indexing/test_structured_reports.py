"""Structured reports of specialist models give predictions, once, to the study of the same patient."""

from __future__ import annotations

import io
import zlib
from typing import TYPE_CHECKING

import pytest
from pydicom import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, EnhancedSRStorage, generate_uid
from rich.console import Console
from sqlalchemy import select, text

from db.answers import predictions, structured_reports
from db.models import Instance, Quarantined, SpecialistPrediction, SpecialistReport, Study
from db.session import transaction
from db.states import JobKind
from db.studies import other_objects
from db.studies.deletion import retention
from deploy.operate.monitoring import trace
from dicom_listener.indexing import content_items, indexer, specialist_reports
from dicom_listener.spool import file_meta
from tests.integration.dicom_listener.objects import encode, image, receive, received

if TYPE_CHECKING:
    from pathlib import Path

    from db.settings import Settings


def dataset(**values: object) -> Dataset:
    one = Dataset()
    for name, value in values.items():
        setattr(one, name, value)
    return one


def code(meaning: str, value: str = "1") -> list[Dataset]:
    return [dataset(CodeValue=value, CodingSchemeDesignator="DCM", CodeMeaning=meaning)]


def item(value_type: str, concept: str, *children: Dataset, **values: object) -> Dataset:
    one = dataset(ValueType=value_type, RelationshipType="CONTAINS", ConceptNameCodeSequence=code(concept), **values)
    if children:
        one.ContentSequence = list(children)
    return one


def probability(value: str, units: str = "%") -> Dataset:
    measured = dataset(NumericValue=value, MeasurementUnitsCodeSequence=code("percent", units))
    return item("NUM", "Probability", MeasuredValueSequence=[measured])


def report(study: str, *group: Dataset, evidence: tuple[str, ...] = (), **values: object) -> Dataset:
    """A measurement report of a specialist model about *evidence*, stored in *study*."""
    root = item(
        "CONTAINER",
        "Imaging Measurement Report",
        item("TEXT", "Algorithm Name", TextValue="chest-net"),
        item("TEXT", "Algorithm Version", TextValue="1.2"),
        item("CONTAINER", "Measurement Group", *group),
    )
    found = image(SOPClassUID=EnhancedSRStorage, Modality="SR", StudyInstanceUID=study, **values)
    for name in ("Rows", "Columns", "PixelData"):
        delattr(found, name)
    found.update(root)
    found.CurrentRequestedProcedureEvidenceSequence = [dataset(StudyInstanceUID=uid) for uid in evidence]
    return found


def finding(label: str) -> Dataset:
    return item("CODE", "Finding", ConceptCodeSequence=code(label))


def given(settings: Settings) -> list[tuple[str, str | None, float | None]]:
    """Return study, label and score of the stored predictions."""
    row = SpecialistPrediction
    with transaction(settings.database()) as session:
        query = select(Study.study_instance_uid, row.label, row.score).join(Study, Study.id == row.study_id)
        return [tuple(one) for one in session.execute(query.order_by(row.id))]


def reasons(settings: Settings) -> list[list[str]]:
    with transaction(settings.database()) as session:
        return list(session.scalars(select(SpecialistReport.reasons).order_by(SpecialistReport.read_at)))


def traced(settings: Settings, study: str) -> str:
    printed = io.StringIO()
    trace.show(settings, Console(file=printed, width=300), study, as_json=False)
    return printed.getvalue()


def not_images(settings: Settings, kind: JobKind) -> list[str]:
    with transaction(settings.database()) as session:
        return other_objects.not_images(session, session.scalars(select(Study.id)).one(), kind)


def test_other_version_of_a_lost_structured_report_is_quarantined_and_the_prediction_stays(settings: Settings) -> None:
    first = image()
    sent = report(first.StudyInstanceUID, finding("mass"), evidence=(first.StudyInstanceUID,))
    for one in (first, sent):
        receive(settings, one)
    indexer.run_once(settings)
    with transaction(settings.database()) as session:
        stored = session.scalars(select(Instance).where(Instance.modality == "SR")).one()
        (settings.operations.data_dir / stored.file_path).unlink()
    sent.ContentSequence[-1].ContentSequence = [finding("nodule")]
    receive(settings, sent)
    indexer.run_once(settings)

    assert given(settings) == [(first.StudyInstanceUID, "mass", None)]
    with transaction(settings.database()) as session:
        assert session.scalars(select(Quarantined.reason)).all() == ["conflicting_sop_instance"]


def test_structured_report_gives_its_prediction_once_and_is_no_image(settings: Settings) -> None:
    first = image()
    sent = report(first.StudyInstanceUID, finding("épanchement"), probability("93"), evidence=(first.StudyInstanceUID,))
    for one in (first, sent, sent):
        receive(settings, one)
        indexer.run_once(settings)

    assert given(settings) == [(first.StudyInstanceUID, "épanchement", 0.93)]
    with transaction(settings.database()) as session:
        instance = session.scalars(select(Instance).where(Instance.modality == "SR")).one()
        assert not instance.reportable
        [one] = predictions.of_study(session, instance.study_id)
        assert one.source == f"SR {sent.SOPInstanceUID} from CT_1"
    assert not_images(settings, JobKind.DIAGNOSIS) == []
    assert not_images(settings, JobKind.REPORT) == ["Not read: 1 SR object (not images)."]
    assert "structured report" in traced(settings, first.StudyInstanceUID)

    with transaction(settings.database()) as session:
        retention.delete_studies(session, session.scalars(select(Study)).all())
        assert session.scalar(text("SELECT count(*) FROM specialist_predictions, specialist_reports")) == 0


def test_sentences_of_a_structured_report_are_the_draft_of_its_study(settings: Settings) -> None:
    first = image()
    uid = first.StudyInstanceUID
    sent = report(uid, item("TEXT", "Impression", TextValue="Left effusion."), evidence=(uid,))
    for one in (first, sent):
        receive(settings, one)
        indexer.run_once(settings)

    with transaction(settings.database()) as session:
        study = session.scalars(select(Study.id)).one()
        (draft,) = predictions.drafts_of_study(session, study)
        assert predictions.of_study(session, study) == []
    assert (draft.name, draft.version, draft.text) == ("chest-net", "1.2", "Impression: Left effusion.")
    assert draft.source.startswith(f"SR {sent.SOPInstanceUID} from ")
    assert "0 predictions, 1 drafts" in traced(settings, uid)
    assert not_images(settings, JobKind.REPORT) == []
    assert not_images(settings, JobKind.DIAGNOSIS) == ["Not read: 1 SR object (not images)."]


def test_report_of_another_study_needs_the_same_patient(settings: Settings) -> None:
    first = image(PatientID="P-1")
    receive(settings, first)
    uid = first.StudyInstanceUID
    for patient in ("P-1", "P-2", ""):
        sent = report(generate_uid(), finding("mass"), evidence=(uid,), PatientID=patient)
        receive(settings, sent)
        indexer.run_once(settings)

    assert given(settings) == [(uid, "mass", None)]
    assert reasons(settings) == [[], *[[structured_reports.OTHER_PATIENT]] * 2]
    receive(settings, report(uid, finding("mass"), evidence=(uid, generate_uid())))
    indexer.run_once(settings)
    assert reasons(settings)[-1] == ["its evidence is of several studies"]


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("MAX_BYTES", "bytes"), ("MAX_ITEMS", "content items"), ("MAX_DEPTH", "content items")],
)
def test_report_beyond_a_limit_is_stored_and_has_its_reason(
    settings: Settings, limit: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_items, limit, 1)
    uid = generate_uid()
    receive(settings, report(uid, finding("mass")))
    indexer.run_once(settings)

    assert given(settings) == []
    assert reason in reasons(settings)[0][0]
    assert f"0 predictions, 0 drafts; not taken: {reasons(settings)[0][0]}" in traced(settings, uid)


def test_malformed_report_is_stored_and_its_text_is_in_no_log(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    sent = report(generate_uid(), finding("Doe^Jane"), probability("9.3e1"))
    data = encode(sent).replace(b"9.3e1", b"9.3x1")
    receive(settings, sent, data=data)
    receive(settings, report(sent.StudyInstanceUID, item("CODE", "Doe^Jane", ConceptCodeSequence=code("Roe"))))
    assert indexer.run_once(settings) == 2

    assert given(settings) == []
    found = reasons(settings)
    assert [specialist_reports.UNCLEAR] in found
    assert any(one[0].startswith("its content cannot be read (") for one in found)
    printed = capsys.readouterr()
    assert "Doe" not in printed.out + printed.err
    assert "Roe" not in printed.out + printed.err


def test_deflated_report_is_read_within_the_limit(tmp_path: Path) -> None:
    def read(text_value: str) -> content_items.Content:
        sent = report("1.2", item("TEXT", "Finding", TextValue=text_value))
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        header = file_meta.encode(sent.SOPClassUID, sent.SOPInstanceUID, DeflatedExplicitVRLittleEndian, received())
        (tmp_path / "one.dcm").write_bytes(header + deflater.compress(encode(sent)) + deflater.flush())
        return content_items.read(tmp_path / "one.dcm")

    [given] = specialist_reports.of_content(read("mass").root, "1.2").given
    assert given.label == "mass"
    with pytest.raises(content_items.NotRead, match="more than 1048576 bytes"):
        read("x" * content_items.MAX_BYTES)
