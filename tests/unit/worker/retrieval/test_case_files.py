"""A hand-written cases.jsonl is read, or rejected with the number and the problem of the line."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from db.errors import ConfigurationError, NotReportable
from worker.phantoms.datasets import write_reference_cases
from worker.reference_build.importing import case_encoder
from worker.retrieval.build import Steps, archived, build
from worker.retrieval.case_files import Case, files_of, read_cases

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"case_id": "1", "files": ["1.dcm"], "report": "Normal."}


def listed(folder: Path, *lines: Any) -> Path:
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"report": None}, "report is missing or empty"),
        ({"report": ""}, "report is missing or empty"),
        ({"files": []}, "files is missing or empty"),
        ({"files": "1.dcm"}, "files must be a list of strings"),
        ({"files": [1]}, "files must be a list of strings"),
        ({"patient": 12}, "patient must be a string"),
        ({"patient": None}, "patient must be a string"),
        ({"modality": 5}, "modality must be a string"),
        ({"case_id": 7}, "case_id must be a string"),
    ],
)
def test_an_invalid_line_is_named_with_its_problem(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    listed(tmp_path, GOOD, GOOD | {"case_id": "2"} | change)

    with pytest.raises(ConfigurationError, match=f"invalid line 2 of cases.jsonl: {problem}"):
        read_cases(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "no case in cases.jsonl"),
        (b"\n\n", "no case in cases.jsonl"),
        (b"[1]\n", "invalid line 1 of cases.jsonl: not a JSON object"),
        (b"{\n", "invalid line 1 of cases.jsonl: not JSON"),
        ('{"case_id": "ä"}'.encode("latin-1"), "save it as UTF-8"),
    ],
)
def test_an_unreadable_list_names_the_problem(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "cases.jsonl").write_bytes(content)

    with pytest.raises(ConfigurationError, match=problem):
        read_cases(tmp_path)


def test_a_duplicate_case_id_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="duplicate case_id"):
        read_cases(listed(tmp_path, GOOD, GOOD))


def test_a_byte_order_mark_and_unknown_fields_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD | {"comment": 1}).encode())

    assert read_cases(tmp_path) == [Case(**GOOD)]


def test_a_file_that_is_not_dicom_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_text("a letter")

    with pytest.raises(NotReportable, match=r"not a DICOM file: 1\.dcm"):
        files_of(tmp_path, Case(**GOOD))


def test_a_case_with_non_finite_tokens_is_excluded_and_named(tmp_path: Path) -> None:
    write_reference_cases(tmp_path / "cases", count=3, seed=1)
    # One call for the views of a case, one for the same upside down, one for its images.
    values = iter([1, 1, 1, 1, np.nan, 1, 3, 3, np.nan])

    def patch_tokens(images: Any) -> Any:
        return np.full((len(images), 3, 4, 2), next(values), np.float32)

    steps = Steps(case_encoder(patch_tokens, images_per_case=8), lambda _: [], lambda *_: uuid.uuid4())
    indexed, excluded = build(tmp_path / "cases", tmp_path / "s1", steps, model_digest="d" * 64)

    assert indexed == 1
    assert excluded[:2] == [f"0000{n}: the model's vision tower returned non-finite numbers" for n in (2, 3)]


def test_a_folder_without_a_usable_case_leaves_no_snapshot(tmp_path: Path) -> None:
    listed(tmp_path, GOOD)
    steps = Steps(case_encoder(lambda _: None, images_per_case=8), lambda _: [], lambda *_: uuid.uuid4())

    with pytest.raises(ConfigurationError, match=r"no usable case in .*: no file 1\.dcm"):
        build(tmp_path, tmp_path / "s1", steps, model_digest="d" * 64)

    assert not (tmp_path / "s1").exists()


def test_report_of_excessive_length_is_refused_before_its_images_are_read(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_bytes(b"")
    steps = Steps(lambda _: pytest.fail("read"), lambda _: (), lambda *_: uuid.UUID(int=1))

    with pytest.raises(NotReportable, match="60000 characters"):
        archived(tmp_path, Case("1", ["1.dcm"], "a" * 60_000), steps)
