"""The reference index finds what is similar, leaves out the patient's own, and refuses another model's vectors."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.errors import ConfigurationError
from worker.retrieval.index import IndexedCase, ReferenceIndex, write_snapshot

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "model-1"
AXES = np.eye(4, dtype=np.float32)


def case(number: int, modality: str = "DX", patient: str = "", study: str = "") -> IndexedCase:
    return IndexedCase(str(uuid.UUID(int=number)), modality, patient, study)


def snapshot(tmp_path: Path, cases: list[IndexedCase], vectors: np.ndarray) -> ReferenceIndex:
    write_snapshot(tmp_path / "s1", model_digest=DIGEST, cases=cases, vectors=vectors)
    return ReferenceIndex(tmp_path / "s1", model_digest=DIGEST)


def found(index: ReferenceIndex, vector: np.ndarray, **changes: object) -> list[int]:
    asked = {"modality": "DX", "count": 2, "patient_hash": "", "study_hash": ""} | changes
    return [neighbour.case_id.int for neighbour in index.search(vector, **asked)]


def test_the_most_similar_case_comes_first_with_its_cosine(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [case(1), case(2)], np.array([[1, 0], [3, 4]], dtype=np.float32))

    best, second = index.search(np.array([2, 0], dtype=np.float32), modality="DX", count=2)

    assert (best.case_id.int, second.case_id.int) == (1, 2)
    assert best.similarity == pytest.approx(1.0, abs=1e-3)
    assert second.similarity == pytest.approx(0.6, abs=1e-3)


def test_only_cases_of_the_same_modality_are_found(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [case(1, "CT"), case(2, "DX")], AXES[:2])

    assert found(index, AXES[0]) == [2]
    assert found(index, AXES[0], modality="US") == []


def test_the_patients_own_cases_are_left_out_and_others_take_their_place(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [case(1, patient="p"), case(2, patient="p"), case(3), case(4)], AXES)

    assert sorted(found(index, AXES[0], patient_hash="p")) == [3, 4]


def test_the_same_study_is_left_out_even_without_a_patient_id(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [case(1, study="s"), case(2)], AXES[:2])

    assert found(index, AXES[0], study_hash="s") == [2]


def test_cases_without_patient_id_are_not_taken_for_one_patient(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [case(1), case(2)], AXES[:2])

    assert len(found(index, AXES[0], patient_hash="")) == 2


def test_search_is_exact(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(500, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index = snapshot(tmp_path, [case(n) for n in range(500)], vectors)
    query = vectors[7] + 0.1 * vectors[11]

    expected = np.argsort(-(vectors @ query))[:10].tolist()

    assert found(index, query, count=10) == expected


def test_a_snapshot_of_another_model_is_refused(tmp_path: Path) -> None:
    snapshot(tmp_path, [case(1)], AXES[:1])

    with pytest.raises(ConfigurationError, match="another model"):
        ReferenceIndex(tmp_path / "s1", model_digest="model-2")


def test_a_damaged_snapshot_is_refused(tmp_path: Path) -> None:
    snapshot(tmp_path, [case(1)], AXES[:1])
    vectors = tmp_path / "s1" / "0.faiss"
    vectors.write_bytes(vectors.read_bytes()[:-1] + b"\xff")

    with pytest.raises(ConfigurationError, match="damaged"):
        ReferenceIndex(tmp_path / "s1", model_digest=DIGEST)


def test_a_folder_that_is_no_snapshot_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="prelim reference build"):
        ReferenceIndex(tmp_path, model_digest=DIGEST)
