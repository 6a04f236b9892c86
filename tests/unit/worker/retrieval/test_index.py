"""The reference index finds similar cases, excludes the same patient, and rejects another model's vectors."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from db.errors import ConfigurationError
from worker.retrieval.archive import ArchivedCase, IndexedCase
from worker.retrieval.changes import add_cases
from worker.retrieval.duplicates import digests_of, prints_of
from worker.retrieval.features import FeatureStats
from worker.retrieval.index import ReferenceIndex
from worker.retrieval.out_of_distribution import OodResult
from worker.retrieval.snapshot import writing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tokens = NDArray[np.float32]

DIGEST = "model-1"
POSITIONS = np.random.default_rng(0).normal(0, 3, (3, 16, 8))


def images(count: int, seed: int) -> Tokens:
    """Images of one type, each slightly different at every position."""
    return (POSITIONS + np.random.default_rng(seed).normal(0, 1, (count, 3, 16, 8))).astype(np.float32)


def abnormal(place: int, seed: int) -> Tokens:
    """An image of that type with a large deviation at one position."""
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
    """Sixty normal cases, numbered from 1000, and the *special* ones."""
    return [*special, *((case(1000 + n), images(1, 100 + n)) for n in range(60))]


def found(index: ReferenceIndex, tokens: Tokens, **changes: object) -> list[int]:
    asked = {"modality": "DX", "count": 2, "patient_hashes": (), "study_hash": ""} | changes
    return [neighbour.case_id.int for neighbour in index.search(tokens, **asked)]  # type: ignore[arg-type]


def test_the_case_with_the_same_abnormality_comes_first_with_its_cosine(tmp_path: Path) -> None:
    index = snapshot(tmp_path, archive((case(1), abnormal(3, 1)), (case(2), abnormal(8, 2))))

    best, second = index.search(abnormal(3, 5), modality="DX", count=2)

    assert best.case_id.int == 1
    assert 1 >= best.similarity > second.similarity


def test_a_case_finds_itself_with_a_cosine_of_one(tmp_path: Path) -> None:
    several = np.concatenate([abnormal(3, 1), abnormal(8, 2), images(1, 3)])
    index = snapshot(tmp_path, archive((case(1), several)))

    (best,) = index.search(several, modality="DX", count=1)

    assert (best.case_id.int, best.similarity) == (1, pytest.approx(1.0, abs=2e-3))


def test_labels_of_the_reference_reports_are_part_of_the_vectors(tmp_path: Path) -> None:
    with writing(tmp_path / "s1", model_digest=DIGEST) as writer:
        for number in range(30):
            writer.add(case(number), images(1, number), {"nodule left"} if number < 5 else set())
        writer.write()

    stats = FeatureStats.load(tmp_path / "s1" / "DX.stats.npz")
    assert stats.label_names == ("nodule left",)
    assert stats.weights.shape[1] == 1


def test_only_cases_of_the_same_modality_are_found(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [*archive(), (case(1, "CT"), abnormal(3, 1)), (case(2, "CT"), images(1, 2))])

    assert 1 not in found(index, abnormal(3, 1))
    assert found(index, abnormal(3, 1), modality="CT")[0] == 1
    assert found(index, abnormal(3, 1), modality="US") == []


@pytest.mark.parametrize("modality", ["CR", "DX", "RG"])
def test_every_radiograph_is_compared_with_the_dx_partition(tmp_path: Path, modality: str) -> None:
    index = snapshot(tmp_path, archive((case(1, "CR"), abnormal(3, 1))))

    assert found(index, abnormal(3, 4), count=1, modality=modality) == [1]
    result = index.compare(abnormal(3, 4), modality=modality, body_part="CHEST")
    assert result is not None
    assert result.reference_images == 61


def test_cases_of_the_same_patient_are_replaced_by_others(tmp_path: Path) -> None:
    cases = [(case(1, patient="p"), 1), (case(2, patient="former"), 2), (case(3), 3), (case(4), 4)]
    index = snapshot(tmp_path, [(indexed, images(1, seed)) for indexed, seed in cases])

    assert sorted(found(index, images(1, 1), patient_hashes={"p", "former"})) == [3, 4]


def test_a_patient_is_told_apart_by_the_whole_fingerprint(tmp_path: Path) -> None:
    own, alike, short = f"{1:064x}", f"{1 << 200 | 1:064x}", f"{1:08x}"
    owners = {1: own, 2: alike, 3: short, 4: own}
    index = snapshot(tmp_path, [(case(n, patient=owner), images(1, n)) for n, owner in owners.items()])

    assert sorted(found(index, images(1, 1), count=4, patient_hashes={own})) == [2, 3]
    assert len(found(index, images(1, 1), count=4, patient_hashes={f"{own}0"})) == 4


def test_the_same_study_is_excluded_without_a_patient_id(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [(case(1, study="s"), images(1, 1)), (case(2), images(1, 2))])

    assert found(index, images(1, 1), study_hash="s") == [2]


def test_cases_without_patient_id_are_not_treated_as_one_patient(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [(case(1), images(1, 1)), (case(2), images(1, 2))])

    assert len(found(index, images(1, 1), patient_hashes={""})) == 2


def test_search_is_exact(tmp_path: Path) -> None:
    tokens = images(200, 1)
    index = snapshot(tmp_path, [(case(n), tokens[n : n + 1]) for n in range(200)])
    stats = FeatureStats.fit(tokens[n : n + 1] for n in range(200))
    query = 0.5 * (tokens[7:8] + tokens[11:12])

    expected = np.argsort(-(stats.embed(tokens) @ stats.embed(query)[0]))[:10].tolist()

    assert found(index, query, count=10) == expected


def test_only_images_like_the_references_are_in_distribution(tmp_path: Path) -> None:
    index = snapshot(tmp_path, archive())
    turned = images(1, 5)[:, :, ::-1]

    result = index.compare(np.concatenate([images(1, 4), turned]), modality="DX", body_part="CHEST")

    assert result is not None
    assert result.in_distribution == [0]
    assert result.scores[1] > 2 > result.scores[0]
    assert (result.reference_images, result.can_reject) == (60, True)


def test_only_a_case_with_the_same_abnormality_exceeds_the_min_similarity(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [(case(n), abnormal(n % 15, n)) for n in range(60)])
    known, unknown = abnormal(2, 90), images(1, 91)
    unknown[:, :, 15] += np.array([8, -8, -8, 8, 8, -8, -8, 8], np.float32)

    (like,) = index.search(known, modality="DX", count=1)
    (unlike,) = index.search(unknown, modality="DX", count=1)
    result = index.compare(known, modality="DX", body_part="CHEST")

    assert result is not None
    assert like.similarity > result.min_similarity > unlike.similarity


def test_every_case_of_a_small_reference_set_is_similar(tmp_path: Path) -> None:
    index = snapshot(tmp_path, [(case(n), images(1, n)) for n in range(5)])

    result = index.compare(images(1, 50), modality="DX", body_part="CHEST")

    assert result is not None
    assert result.min_similarity == -1


def test_a_body_part_missing_from_the_references_is_never_rejected(tmp_path: Path) -> None:
    index = snapshot(tmp_path, archive())

    def can_reject(part: str) -> bool:
        result = index.compare(images(1, 1), modality="DX", body_part=part)
        assert isinstance(result, OodResult)
        return result.can_reject

    assert [can_reject("CHEST"), can_reject("EXTREMITY"), can_reject("")] == [True, False, False]


def test_a_small_reference_set_rejects_nothing(tmp_path: Path) -> None:
    def can_reject(name: str, cases: list[IndexedCase]) -> bool:
        index = snapshot(tmp_path / name, [(one, images(3, n)) for n, one in enumerate(cases)])
        result = index.compare(images(1, 50), modality="DX", body_part="CHEST")
        assert result is not None
        return result.can_reject

    assert can_reject("enough", [case(n) for n in range(40)])
    assert not can_reject("few", [case(n) for n in range(39)])
    assert not can_reject("few patients", [case(n, patient=f"p{n % 20}") for n in range(60)])


def test_a_single_image_of_a_modality_is_stored_but_not_searchable(tmp_path: Path) -> None:
    with writing(tmp_path / "s1", model_digest=DIGEST) as writer:
        for indexed, tokens in [*archive(), (case(1, "US"), images(1, 1))]:
            writer.add(indexed, tokens)
        messages = writer.write()
    index = ReferenceIndex(tmp_path / "s1", model_digest=DIGEST)

    assert messages == ["US: not searchable with a single image; add reference cases of this modality"]
    assert index.compare(images(1, 1), modality="US", body_part="CHEST") is None
    assert found(index, images(1, 1), modality="US") == []


def test_an_interrupted_build_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        snapshot(tmp_path, [(case(1), images(1, 1)), None])  # type: ignore[list-item]

    assert list(tmp_path.iterdir()) == []


def test_a_finished_build_leaves_only_the_snapshot(tmp_path: Path) -> None:
    snapshot(tmp_path, archive())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases-model-1", "s1"]
    assert sorted(path.name for path in (tmp_path / "s1").iterdir()) == [
        "DX.0.digests.npy",
        "DX.0.faiss",
        "DX.0.rows.npy",
        "DX.stats.npz",
        "snapshot.json",
    ]


def test_tokens_of_varying_shape_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot have a reference index"):
        snapshot(tmp_path, [(case(1), images(1, 1)), (case(2), images(1, 1)[:, :, :9])])


def test_a_snapshot_of_another_model_is_rejected(tmp_path: Path) -> None:
    snapshot(tmp_path, archive())

    with pytest.raises(ConfigurationError, match="different model"):
        ReferenceIndex(tmp_path / "s1", model_digest="model-2")


@pytest.mark.parametrize("name", ["DX.0.faiss", "DX.stats.npz", "DX.0.rows.npy", "DX.0.digests.npy"])
def test_a_damaged_snapshot_is_rejected(tmp_path: Path, name: str) -> None:
    snapshot(tmp_path, archive())
    damaged = tmp_path / "s1" / name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")

    with pytest.raises(ConfigurationError, match="damaged"):
        ReferenceIndex(tmp_path / "s1", model_digest=DIGEST)


def test_a_snapshot_of_an_earlier_version_must_be_built_again(tmp_path: Path) -> None:
    old = {"model_digest": DIGEST, "dimension": 4, "modalities": {"DX": {"file": "0.faiss", "sha256": "", "cases": []}}}
    (tmp_path / "snapshot.json").write_text(json.dumps(old))

    with pytest.raises(ConfigurationError, match="build it again"):
        ReferenceIndex(tmp_path, model_digest=DIGEST)


def test_a_snapshot_without_min_similarity_must_be_built_again(tmp_path: Path) -> None:
    snapshot(tmp_path, archive())
    manifest = tmp_path / "s1" / "snapshot.json"
    old = json.loads(manifest.read_text())
    del old["modalities"]["DX"]["least_similarity"]
    manifest.write_text(json.dumps(old))

    with pytest.raises(ConfigurationError, match="build it again"):
        ReferenceIndex(tmp_path / "s1", model_digest=DIGEST)


def test_a_folder_without_snapshot_names_the_command_that_builds_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="prelim index build"):
        ReferenceIndex(tmp_path, model_digest=DIGEST)


def other_part(count: int, seed: int) -> Tokens:
    """Images of another body part: the positions are reversed."""
    return images(count, seed)[:, :, ::-1]


def two_parts(folder: Path, *, spines: int = 60) -> ReferenceIndex:
    spine = [(case(2000 + n, part="SPINE"), other_part(1, 300 + n)) for n in range(spines)]
    return snapshot(folder, [*archive(), *spine])


def resembled(index: ReferenceIndex, tokens: Tokens, part: str) -> str:
    result = index.compare(tokens, modality="DX", body_part=part)
    assert result is not None
    return result.resembled_part


def test_images_that_contradict_the_body_part_of_their_header_are_noticed(tmp_path: Path) -> None:
    index = two_parts(tmp_path)

    assert resembled(index, images(2, 7), "SPINE") == "CHEST"
    assert resembled(index, other_part(1, 7), "CHEST") == "SPINE"
    assert resembled(index, images(1, 7), "EXTREMITY") == "CHEST"
    assert [resembled(index, images(1, 7), part) for part in ("CHEST", "CHEST AND ABDOMEN", "WHOLE BODY", "")] == [
        ""
    ] * 4


def test_right_headers_are_not_doubted(tmp_path: Path) -> None:
    index = two_parts(tmp_path)

    assert [resembled(index, images(1, 500 + n), "CHEST") for n in range(40)] == [""] * 40
    assert [resembled(index, other_part(1, 600 + n), "SPINE") for n in range(40)] == [""] * 40


def test_chest_said_to_be_a_knee_is_noticed_without_reference_knees(tmp_path: Path) -> None:
    index = snapshot(tmp_path, archive())

    assert resembled(index, images(1, 7), "EXTREMITY") == "CHEST"
    assert resembled(index, other_part(1, 7), "EXTREMITY") == ""


def test_body_part_with_few_reference_patients_is_not_judged(tmp_path: Path) -> None:
    assert resembled(two_parts(tmp_path, spines=25), images(1, 7), "SPINE") == ""


def test_each_body_part_with_enough_images_has_its_own_detector(tmp_path: Path) -> None:
    two_parts(tmp_path)

    assert sorted(FeatureStats.load(tmp_path / "s1" / "DX.stats.npz").part_detectors) == ["CHEST", "SPINE"]


def test_only_cases_of_the_same_body_part_are_quoted(tmp_path: Path) -> None:
    index = two_parts(tmp_path)

    assert [number >= 2000 for number in found(index, images(1, 7), body_part="SPINE")] == [True] * 2
    assert [number < 2000 for number in found(index, images(1, 7), body_part="CHEST AND ABDOMEN")] == [True] * 2
    assert len(found(index, images(1, 7), body_part="EXTREMITY")) == 2


def test_the_same_images_under_another_patient_id_are_found(tmp_path: Path) -> None:
    """By equal pixels among all cases, and by nearly equal ones among the nearest."""
    pictures = [np.asarray(np.random.default_rng(n).integers(0, 256, (64, 64, 3)), np.uint8) for n in range(4)]
    with writing(tmp_path / "s1", model_digest=DIGEST) as writer:
        for number, picture in enumerate(pictures):
            stored = {"prints": prints_of([picture]), "digests": digests_of([picture])}
            writer.add(case(number, patient=f"p{number}"), images(1, number), **stored)
        writer.write()
    index = ReferenceIndex(tmp_path / "s1", model_digest=DIGEST)
    nearly = np.clip(pictures[2].astype(int) + 1, 0, 255).astype(np.uint8)
    ids = [uuid.UUID(int=number) for number in range(4)]

    def same(image: NDArray[np.uint8], among: list[uuid.UUID], patient: str = "x") -> set[uuid.UUID]:
        return index.same_images([image], modality="DX", among=among, patient_hashes={patient})

    assert same(pictures[1], []) == {ids[1]}
    assert same(pictures[1], [], patient="p1") == set()
    assert same(nearly, []) == set()
    assert same(nearly, ids) == {ids[2]}
    assert 2 not in found(index, images(1, 2), excluded={ids[2]}, count=4)


def test_a_damaged_file_of_a_case_that_cannot_be_compared_is_logged(tmp_path: Path) -> None:
    index = snapshot(tmp_path, archive())
    nearest = [uuid.UUID(int=1000), uuid.UUID(int=1001)]
    (file,) = tmp_path.glob(f"cases-*/{nearest[0]}.npz")
    file.write_bytes(b"damaged")

    with capture_logs() as logs:
        index.same_images([np.eye(64, dtype=np.uint8).repeat(3).reshape(64, 64, 3)], modality="DX", among=nearest)

    assert [(line["event"], line["case"]) for line in logs] == [("reference_case.unreadable", str(nearest[0]))]


def labelled(folder: Path) -> Path:
    """A snapshot of sixty cases of 30 patients, ten of these with an effusion that the images show."""
    with writing(folder / "s1", model_digest=DIGEST) as writer:
        for number in range(60):
            ill = number < 20
            tokens = abnormal(3, number) if ill else images(1, number)
            writer.add(case(number, patient=f"p{number // 2}"), tokens, {"effusion left"} if ill else set())
        writer.write()
    return folder / "s1"


def test_scores_are_those_without_quoted_cases_and_without_the_patient(tmp_path: Path) -> None:
    index = ReferenceIndex(labelled(tmp_path), model_digest=DIGEST)
    query, quoted = abnormal(3, 99), {uuid.UUID(int=4)}

    left_out: tuple[dict[str, set[Any]], ...] = (
        {},
        {"without": quoted},
        {"patient_hashes": {"p7", "unknown"}},
        {"without": quoted, "patient_hashes": {"p7"}},
    )
    found = [index.label_scores(query, modality="DX", **each) for each in left_out]

    every, without, own, both = [scores for scores in found if scores]
    # Patient 2 has case 4 and case 5.
    assert [one.left_out for one in (every, without, own, both)] == [0, 2, 2, 4]
    scores = [float(one.shares.sum()) for one in (every, without, both)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]
    assert float(both.thresholds[0]) == float(every.thresholds[0])


def test_added_case_keeps_what_leaves_cases_out_of_the_scores(tmp_path: Path) -> None:
    first = labelled(tmp_path)
    added = ArchivedCase(case(70, patient="p70"), images(1, 70), ["effusion left"])
    add_cases(first, tmp_path / "s2", [added], model_digest=DIGEST)

    index = ReferenceIndex(tmp_path / "s2", model_digest=DIGEST)

    # The statistics are not fitted to an added case.
    left_out = {70: 0, 4: 2}
    for number, count in left_out.items():
        scores = index.label_scores(images(1, 9), modality="DX", without={uuid.UUID(int=number)})
        assert scores is not None
        assert scores.left_out == count
    assert (first / "DX.fitted.npy").samefile(tmp_path / "s2" / "DX.fitted.npy")


def test_snapshot_of_an_earlier_release_leaves_no_case_out_and_says_so(tmp_path: Path) -> None:
    path = labelled(tmp_path) / "snapshot.json"
    manifest = json.loads(path.read_text())
    del manifest["modalities"]["DX"]["fitted"]
    path.write_text(json.dumps(manifest))

    scores = ReferenceIndex(path.parent, model_digest=DIGEST).label_scores(
        images(1, 9), modality="DX", without={uuid.UUID(int=4)}
    )

    assert scores is not None
    assert scores.left_out is None
