"""The reference index finds what is similar, leaves out the patient's own, and refuses another model's vectors."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING

import numpy as np
import pytest

from db.errors import ConfigurationError
from worker.retrieval import features
from worker.retrieval.index import Look, ReferenceIndex
from worker.retrieval.snapshot import IndexedCase, writing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tokens = NDArray[np.float32]

DIGEST = "model-1"
PLACES = np.random.default_rng(0).normal(0, 3, (3, 16, 8))


def images(count: int, seed: int) -> Tokens:
    """Images of one kind, each a little different at every place."""
    return (PLACES + np.random.default_rng(seed).normal(0, 1, (count, 3, 16, 8))).astype(np.float32)


def odd(place: int, seed: int) -> Tokens:
    """An image of the kind with something loud at one place."""
    image = images(1, seed)
    image[:, :, place] += np.linspace(-8, 8, 8, dtype=np.float32) * (-1) ** place
    return image


def case(number: int, modality: str = "DX", *, patient: str = "", study: str = "", part: str = "CHEST") -> IndexedCase:
    return IndexedCase(str(uuid.UUID(int=number)), modality, patient, study, part)


def snapshot(folder: Path, cases: list[tuple[IndexedCase, Tokens]]) -> ReferenceIndex:
    with writing(folder / "s1", model_digest=DIGEST) as writer:
        for indexed, tokens in cases:
            writer.add(indexed, tokens)
        writer.write()
    return ReferenceIndex(folder / "s1", model_digest=DIGEST)


def archive(*special: tuple[IndexedCase, Tokens]) -> list[tuple[IndexedCase, Tokens]]:
    """Sixty usual cases, numbered from 1000, and some special ones."""
    return [*special, *((case(1000 + n), images(1, 100 + n)) for n in range(60))]


def found(index: ReferenceIndex, tokens: Tokens, **changes: object) -> list[int]:
    asked = {"modality": "DX", "count": 2, "patient_hash": "", "study_hash": ""} | changes
    return [neighbour.case_id.int for neighbour in index.search(tokens, **asked)]  # type: ignore[arg-type]


def test_the_case_with_the_same_oddity_comes_first_with_its_cosine(tmp_path: Path) -> None:
    index = snapshot(tmp_path, archive((case(1), odd(3, 1)), (case(2), odd(8, 2))))

    best, second = index.search(odd(3, 5), modality="DX", count=2)

    assert best.case_id.int == 1
    assert 1 >= best.similarity > second.similarity


def test_a_case_finds_itself_with_a_cosine_of_one(tmp_path: Path) -> None:
    several = np.concatenate([odd(3, 1), odd(8, 2), images(1, 3)])
    index = snapshot(tmp_path, archive((case(1), several)))

    (best,) = index.search(several, modality="DX", count=1)

    assert (best.case_id.int, best.similarity) == (1, pytest.approx(1.0, abs=2e-3))


def test_labels_of_the_reference_reports_take_part_in_the_vectors(tmp_path: Path) -> None:
    with writing(tmp_path / "s1", model_digest=DIGEST) as writer:
        for number in range(30):
            writer.add(case(number), images(1, number), {"nodule left"} if number < 5 else set())
        writer.write()

    assert features.Usual.load(tmp_path / "s1" / "0.npz").weights.shape[1] == 1


def test_only_cases_of_the_same_modality_are_found(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [*archive(), (case(1, "CT"), odd(3, 1)), (case(2, "CT"), images(1, 2))])

    assert 1 not in found(index, odd(3, 1))
    assert found(index, odd(3, 1), modality="CT")[0] == 1
    assert found(index, odd(3, 1), modality="US") == []


@pytest.mark.parametrize("modality", ["CR", "DX", "RG"])
def test_every_radiograph_is_compared_with_the_dx_partition(tmp_path: Path, modality: str) -> None:
    index = snapshot(tmp_path, archive((case(1, "CR"), odd(3, 1))))

    assert found(index, odd(3, 4), count=1, modality=modality) == [1]
    look = index.look(odd(3, 4), modality=modality, body_part="CHEST")
    assert look is not None
    assert look.images == 61


def test_the_patients_own_cases_are_left_out_and_others_take_their_place(tmp_path: Path) -> None:
    cases = [(case(1, patient="p"), 1), (case(2, patient="p"), 2), (case(3), 3), (case(4), 4)]
    index = snapshot(tmp_path, [(indexed, images(1, seed)) for indexed, seed in cases])

    assert sorted(found(index, images(1, 1), patient_hash="p")) == [3, 4]


def test_the_same_study_is_left_out_even_without_a_patient_id(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [(case(1, study="s"), images(1, 1)), (case(2), images(1, 2))])

    assert found(index, images(1, 1), study_hash="s") == [2]


def test_cases_without_patient_id_are_not_taken_for_one_patient(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [(case(1), images(1, 1)), (case(2), images(1, 2))])

    assert len(found(index, images(1, 1), patient_hash="")) == 2


def test_search_is_exact(tmp_path: Path) -> None:
    tokens = images(200, 1)
    index = snapshot(tmp_path, [(case(n), tokens[n : n + 1]) for n in range(200)])
    usual = features.fit(tokens[n : n + 1] for n in range(200))
    query = 0.5 * (tokens[7:8] + tokens[11:12])

    expected = np.argsort(-(features.embed(tokens, usual) @ features.embed(query, usual)[0]))[:10].tolist()

    assert found(index, query, count=10) == expected


def test_images_of_the_kind_are_usual_and_others_are_not(tmp_path: Path) -> None:
    index = snapshot(tmp_path, archive())
    turned = images(1, 5)[:, :, ::-1]

    look = index.look(np.concatenate([images(1, 4), turned]), modality="DX", body_part="CHEST")

    assert look is not None
    assert look.usual == [0]
    assert look.z[1] > 2 > look.z[0]
    assert (look.images, look.decides) == (60, True)


def test_a_case_with_the_same_oddity_is_similar_and_the_nearest_of_unlike_ones_is_not(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [(case(n), odd(n % 15, n)) for n in range(60)])
    known, unknown = odd(2, 90), images(1, 91)
    unknown[:, :, 15] += np.array([8, -8, -8, 8, 8, -8, -8, 8], np.float32)

    (like,) = index.search(known, modality="DX", count=1)
    (unlike,) = index.search(unknown, modality="DX", count=1)
    look = index.look(known, modality="DX", body_part="CHEST")

    assert look is not None
    assert like.similarity > look.least_similarity > unlike.similarity


def test_in_a_small_reference_set_any_case_is_similar(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [(case(n), images(1, n)) for n in range(5)])

    look = index.look(images(1, 50), modality="DX", body_part="CHEST")

    assert look is not None
    assert look.least_similarity == -1


def test_another_part_of_the_body_than_the_references_show_is_never_refused(tmp_path: Path) -> None:
    index = snapshot(tmp_path, archive())

    def decides(part: str) -> bool:
        look = index.look(images(1, 1), modality="DX", body_part=part)
        assert isinstance(look, Look)
        return look.decides

    assert [decides("CHEST"), decides("EXTREMITY"), decides("")] == [True, False, False]


def test_a_small_reference_set_refuses_nothing(tmp_path: Path) -> None:
    def decides(name: str, cases: list[IndexedCase]) -> bool:
        index = snapshot(tmp_path / name, [(one, images(3, n)) for n, one in enumerate(cases)])
        look = index.look(images(1, 50), modality="DX", body_part="CHEST")
        assert look is not None
        return look.decides

    assert decides("enough", [case(n) for n in range(40)])
    assert not decides("few", [case(n) for n in range(39)])
    assert not decides("few patients", [case(n, patient=f"p{n % 20}") for n in range(60)])


def test_a_single_image_of_a_modality_is_kept_but_nothing_is_compared_with_it(tmp_path: Path) -> None:
    with writing(tmp_path / "s1", model_digest=DIGEST) as writer:
        for indexed, tokens in [*archive(), (case(1, "US"), images(1, 1))]:
            writer.add(indexed, tokens)
        remarks = writer.write()
    index = ReferenceIndex(tmp_path / "s1", model_digest=DIGEST)

    assert remarks == ["US: a single image says nothing about what is usual; nothing is retrieved for it"]
    assert index.look(images(1, 1), modality="US", body_part="CHEST") is None
    assert found(index, images(1, 1), modality="US") == []


def test_an_interrupted_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        snapshot(tmp_path, [(case(1), images(1, 1)), None])  # type: ignore[list-item]

    assert list(tmp_path.iterdir()) == []


def test_a_finished_build_leaves_only_the_snapshot(tmp_path: Path) -> None:
    snapshot(tmp_path, archive())

    assert [path.name for path in tmp_path.iterdir()] == ["s1"]
    assert sorted(path.name for path in (tmp_path / "s1").iterdir()) == ["0.faiss", "0.npz", "snapshot.json"]


def test_images_that_cannot_be_compared_place_by_place_make_no_index(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot have an index"):
        snapshot(tmp_path, [(case(1), images(1, 1)), (case(2), images(1, 1)[:, :, :9])])


def test_a_snapshot_of_another_model_is_refused(tmp_path: Path) -> None:
    snapshot(tmp_path, archive())

    with pytest.raises(ConfigurationError, match="another model"):
        ReferenceIndex(tmp_path / "s1", model_digest="model-2")


@pytest.mark.parametrize("name", ["0.faiss", "0.npz"])
def test_a_damaged_snapshot_is_refused(tmp_path: Path, name: str) -> None:
    snapshot(tmp_path, archive())
    damaged = tmp_path / "s1" / name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")

    with pytest.raises(ConfigurationError, match="damaged"):
        ReferenceIndex(tmp_path / "s1", model_digest=DIGEST)


def test_a_snapshot_of_an_earlier_version_is_refused_with_what_to_do(tmp_path: Path) -> None:
    old = {"model_digest": DIGEST, "dimension": 4, "modalities": {"DX": {"file": "0.faiss", "sha256": "", "cases": []}}}
    (tmp_path / "snapshot.json").write_text(json.dumps(old))

    with pytest.raises(ConfigurationError, match="build it again"):
        ReferenceIndex(tmp_path, model_digest=DIGEST)


def test_a_snapshot_that_does_not_know_what_is_similar_is_refused_with_what_to_do(tmp_path: Path) -> None:
    snapshot(tmp_path, archive())
    manifest = tmp_path / "s1" / "snapshot.json"
    old = json.loads(manifest.read_text())
    del old["modalities"]["DX"]["least_similarity"]
    manifest.write_text(json.dumps(old))

    with pytest.raises(ConfigurationError, match="build it again"):
        ReferenceIndex(tmp_path / "s1", model_digest=DIGEST)


def test_a_folder_that_is_no_snapshot_is_refused_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="prelim reference build"):
        ReferenceIndex(tmp_path, model_digest=DIGEST)
