"""Pairs are written in the form of the fine-tuning, split by patient, and are never reference cases."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from db.errors import ConfigurationError
from worker.evaluation.bootstrap.export import Form, Pair, new_part, save_images, write
from worker.evaluation.bootstrap.labelled_cases import read_labelled
from worker.reference_build.importing import chosen_cases
from worker.retrieval.case_files import read_cases

if TYPE_CHECKING:
    from pathlib import Path

SPLITS = ("train", "validation", "test")
GOOD = {"case_id": "1", "files": ["1.dcm"], "labels": ["left nodule"], "confirmed_by": "reader 1"}


def pairs(part: Path) -> list[Pair]:
    """Two pairs of each of thirty patients; every third has two images."""
    images = [save_images(part, n, [b"one", b"two"][: 1 + (n % 3 == 0)]) for n in range(60)]
    return [Pair(f"c{n}", f"patient {n // 2}", "Describe.", "Normal.", [], images[n], {}) for n in range(60)]


def written(folder: Path, form: Form, ending: str = "") -> dict[str, list[dict[str, Any]]]:
    out = folder / "out"
    part = new_part(out)
    write(part, out, form, pairs(part), [], {})
    return {name: lines_of(out / f"{name}{ending}.jsonl") for name in SPLITS}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("ending", "images"), [("", 1), ("_multi_image", 2)])
def test_a_conversation_has_all_images_of_its_pair_in_a_file_for_their_number(
    tmp_path: Path, ending: str, images: int
) -> None:
    """MedDr's trainer joins `image` to a path; that of InternVL replaces one `<image>` for each of a list."""
    lines = [line for lines in written(tmp_path, "internvl", ending).values() for line in lines]

    assert len({line["id"] for line in lines}) == len(lines) == {1: 40, 2: 20}[images]
    for line in lines:
        names = [line["image"]] if images == 1 else line["image"]
        assert [(tmp_path / "out" / name).read_bytes() for name in names] == [b"one", b"two"][:images]
        assert [turn["from"] for turn in line["conversations"]] == ["human", "gpt"]
        assert line["conversations"][0]["value"] == "<image>\n" * images + "Describe."
        assert line["synthetic"] is True


def test_a_patient_is_in_one_split_only_and_none_is_empty(tmp_path: Path) -> None:
    patients = {
        name: {int(line["case_id"][1:]) // 2 for line in lines} for name, lines in written(tmp_path, "jsonl").items()
    }

    assert all(patients.values())
    assert sum(map(len, patients.values())) == 30


def test_the_manifest_has_the_digest_of_each_file(tmp_path: Path) -> None:
    written(tmp_path, "jsonl")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())

    assert {"train.jsonl", "datasheet.json", "hard.jsonl", "images/000003-2.png"} <= set(manifest)
    for name, digest in manifest.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("form", ["jsonl", "internvl"])
def test_an_index_refuses_a_pair_as_a_reference_case(tmp_path: Path, form: Form) -> None:
    line = written(tmp_path, form)["train"][0]
    cases(tmp_path, {"case_id": "1", "files": ["images/000001-1.png"], "report": "Normal."} | line)

    with pytest.raises(ConfigurationError, match="line 1 .*synthetic"):
        chosen_cases(tmp_path, [])


@pytest.mark.parametrize("value", [True, "true", 1, "no", None, []])
def test_a_mark_other_than_false_is_refused(tmp_path: Path, value: Any) -> None:
    case = {"case_id": "1", "files": ["1.dcm"], "report": "Normal."}
    cases(tmp_path, case | {"synthetic": value})

    with pytest.raises(ConfigurationError, match="synthetic"):
        read_cases(tmp_path)
    cases(tmp_path, case | {"synthetic": False})
    assert len(read_cases(tmp_path)) == 1


def cases(folder: Path, line: dict[str, Any]) -> None:
    (folder / "cases.jsonl").write_text(json.dumps(line))


def test_a_folder_with_files_is_not_overwritten(tmp_path: Path) -> None:
    written(tmp_path, "jsonl")

    with pytest.raises(ConfigurationError, match="not empty"):
        written(tmp_path, "jsonl")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"labels": None}, "labels must be a list"),
        ({"labels": ["no left nodule"]}, "exactly one finding"),
        ({"labels": ["possible left nodule"]}, "exactly one finding"),
        ({"labels": ["left nodule and pneumothorax"]}, "exactly one finding"),
        ({"labels": ["nodule: 0"]}, "exactly one finding"),
        ({"labels": ["nodule: false"]}, "exactly one finding"),
        ({"labels": ["something"]}, "exactly one finding"),
        ({"labels": ["normal", "left nodule"]}, "exactly one finding"),
        *(
            ({"labels": [label]}, "label 1 has words beside its finding")
            for label in (
                *(
                    "nodule 0.1",
                    "!nodule",
                    "non-nodule",
                    "uncertain nodule",
                    "old nodule",
                ),
                *("left/right nodule", "nodule left or right", "kein Pneumothorax", "Pneumothorax rechts"),
            )
        ),
        ({"confirmed_by": ""}, "confirmed_by is missing"),
        ({"patient": 5}, "patient must be a string"),
    ],
)
def test_an_invalid_line_is_rejected_with_its_number(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(GOOD | {"case_id": "2"} | change))

    with pytest.raises(ConfigurationError, match=f"line 2.*{problem}"):
        read_labelled(path)


@pytest.mark.parametrize("label", ["Pleural_Effusion", "pleural-effusion", "Pleural effusion (left-sided, small)"])
def test_label_may_be_written_in_common_ways(tmp_path: Path, label: str) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(GOOD | {"labels": [label]}))

    (read,) = read_labelled(path)
    assert {one.finding for one in read.confirmed} == {"pleural effusion"}


@pytest.mark.parametrize("labels", [[], ["normal"], ["No finding"], ["No_Finding"]])
def test_a_study_without_labels_is_confirmed_to_have_no_finding(tmp_path: Path, labels: list[str]) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps(GOOD | {"labels": labels}))

    (read,) = read_labelled(path)
    assert (read.confirmed, read.case.labels) == (frozenset(), [])
