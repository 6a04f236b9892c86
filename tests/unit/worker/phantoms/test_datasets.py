"""DICOM studies of phantoms: valid, marked as synthetic, and listed with their reference reports."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from pydicom import dcmread

from db.errors import ConfigurationError
from worker.images.study import StoredInstance, images_of
from worker.phantoms.cases import CATALOGUE, Case, draw_case
from worker.phantoms.datasets import (
    MIN_CASES_IN_PARALLEL,
    REFERENCE_CASES,
    reference_cases,
    write_demo_studies,
    write_phantoms,
    write_reference_cases,
)
from worker.phantoms.dicom_files import write_study
from worker.phantoms.phantoms import CAREFUL, draw
from worker.retrieval.case_files import read_cases
from worker.retrieval.index import MIN_PATIENTS
from worker.retrieval.label_regression import MIN_PATIENTS_FOR_OMISSIONS

if TYPE_CHECKING:
    from pathlib import Path


def test_demo_studies_include_every_image_type(tmp_path: Path) -> None:
    studies = write_demo_studies(tmp_path, count=7, seed=5)

    listed = [json.loads(line) for line in (tmp_path / "cases.jsonl").read_text().splitlines()]
    assert {study["modality"] for study in listed} >= {"CT", "MR", "OP", "XC", "ES", "SM"}
    for study in studies:
        for name in study.files:
            dataset = dcmread(tmp_path / name)
            assert dataset.StudyInstanceUID == study.study_instance_uid
            assert str(dataset.PatientName).startswith("PHANTOM^")


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_demo_studies(tmp_path / folder, count=2, seed=9)

    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.dcm"))
    assert names
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in names)


def test_a_demo_has_enough_reference_cases_to_reject_images() -> None:
    cases = list(reference_cases(np.random.default_rng(0), REFERENCE_CASES))

    assert min(sum(case.image == kind for case in cases) for kind in CATALOGUE) >= MIN_PATIENTS


def test_a_demo_has_enough_patients_with_each_finding_to_compare_drafts_with() -> None:
    cases = list(reference_cases(np.random.default_rng(0), REFERENCE_CASES))

    patients = Counter((case.image, f.name, f.side) for case in cases for f in case.findings)
    assert {image for image, _, _ in patients} == set(CATALOGUE)
    assert min(patients.values()) >= MIN_PATIENTS_FOR_OMISSIONS
    healthy = Counter(case.image for case in cases if not case.findings)
    assert min(healthy[image] for image in CATALOGUE) >= 5


def test_written_reference_cases_can_be_read(tmp_path: Path) -> None:
    write_reference_cases(tmp_path, count=3, seed=1)

    cases = read_cases(tmp_path)

    assert len(cases) == 3
    assert all(case.report.startswith("Findings:") and case.labels for case in cases)


def test_cases_drawn_in_parallel_are_the_same(tmp_path: Path) -> None:
    write_reference_cases(tmp_path / "few", count=2, seed=1)
    many = write_reference_cases(tmp_path / "many", count=MIN_CASES_IN_PARALLEL, seed=1)

    names = [path.relative_to(tmp_path / "few") for path in (tmp_path / "few").rglob("*.dcm")]
    assert len(many) == MIN_CASES_IN_PARALLEL
    assert names
    assert all((tmp_path / "few" / name).read_bytes() == (tmp_path / "many" / name).read_bytes() for name in names)


def test_reference_cases_are_of_other_patients_than_the_demo_studies(tmp_path: Path) -> None:
    sent = write_demo_studies(tmp_path / "sent", count=3, seed=1)
    earlier = write_reference_cases(tmp_path / "earlier", count=3, seed=1)

    assert not {study.patient for study in sent} & {case.patient for case in earlier}
    assert earlier[0].patient == str(dcmread(tmp_path / "earlier" / earlier[0].files[0]).PatientID)


def test_a_small_volume_covers_the_same_range_with_fewer_slices(tmp_path: Path) -> None:
    places = [
        sorted(float(dcmread(path).ImagePositionPatient[2]) for path in write_study(Case("mr", 3), folder, small=small))
        for folder, small in ((tmp_path / "whole", False), (tmp_path / "small", True))
    ]

    assert (places[0][0], places[0][-1]) == (places[1][0], places[1][-1])
    assert (len(places[0]), len(places[1])) == (24, 12)


@pytest.mark.parametrize("bone_black", [False, True])
def test_a_radiograph_is_rendered_as_it_was_drawn(tmp_path: Path, bone_black: bool) -> None:
    seed = next(s for s in range(100) if (s % 5 == 0) == bone_black and s % 4)
    case = Case("chest", seed, draw_case(np.random.default_rng(1), "chest").findings)

    (path,) = write_study(case, tmp_path)

    dataset = dcmread(path)
    assert dataset.PhotometricInterpretation == ("MONOCHROME1" if bone_black else "MONOCHROME2")
    study = images_of([StoredInstance(path=path, sop_instance_uid=dataset.SOPInstanceUID)], budget=4)
    drawn = draw(case, size=dataset.Rows, variation=CAREFUL).rgb()
    assert np.abs(study.images[0].pixels.astype(int) - drawn).max() <= 1


def test_slices_of_a_volume_have_distinct_positions(tmp_path: Path) -> None:
    paths = write_study(Case("ct", 3), tmp_path)

    places = [float(dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]) for path in paths]
    assert places == sorted(places)
    assert len(set(places)) == len(paths) == 24


def test_phantoms_are_not_written_into_a_folder_with_files(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "new", count=1, seed=1)

    with pytest.raises(ConfigurationError, match="new is not empty"):
        write_phantoms(tmp_path / "new", count=1, seed=2)
