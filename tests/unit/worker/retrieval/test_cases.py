"""A list of cases that somebody wrote by hand: read, or refused with what is wrong in which line."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from db.errors import ConfigurationError, NotReportable
from worker.phantoms.datasets import write_reference_cases
from worker.retrieval.build import Case, collect, instances_of, read_cases
from worker.retrieval.snapshot import writing

if TYPE_CHECKING:
    from pathlib import Path

GOOD = {"case_id": "1", "files": ["1.dcm"], "report": "Normal."}


def listed(folder: Path, *lines: Any) -> Path:
    (folder / "cases.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"report": None}, "it has no report"),
        ({"report": ""}, "it has no report"),
        ({"files": []}, "it has no files"),
        ({"files": "1.dcm"}, "its files must be a list of texts"),
        ({"files": [1]}, "its files must be a list of texts"),
        ({"patient": 12}, "its patient must be a text"),
        ({"patient": None}, "its patient must be a text"),
        ({"modality": 5}, "its modality must be a text"),
        ({"case_id": 7}, "its case_id must be a text"),
    ],
)
def test_a_line_that_is_no_case_is_named_with_its_fault(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    listed(tmp_path, GOOD, GOOD | {"case_id": "2"} | change)

    with pytest.raises(ConfigurationError, match=f"cases.jsonl line 2 is not a case: {problem}"):
        read_cases(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "lists no case"),
        (b"\n\n", "lists no case"),
        (b"[1]\n", "line 1 is not a case: it is no JSON object"),
        (b"{\n", "line 1 is not a case: no JSON"),
        ('{"case_id": "ä"}'.encode("latin-1"), "is not written in UTF-8"),
    ],
)
def test_a_list_that_cannot_be_read_says_why(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "cases.jsonl").write_bytes(content)

    with pytest.raises(ConfigurationError, match=problem):
        read_cases(tmp_path)


def test_a_case_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="lists a case_id more than once"):
        read_cases(listed(tmp_path, GOOD, GOOD))


def test_a_byte_order_mark_and_what_is_not_known_are_read_over(tmp_path: Path) -> None:
    (tmp_path / "cases.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD | {"comment": 1}).encode())

    assert read_cases(tmp_path) == [Case(**GOOD)]


def test_a_file_that_is_no_dicom_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.dcm").write_text("a letter")

    with pytest.raises(NotReportable, match=r"1\.dcm is no DICOM file"):
        instances_of(tmp_path, Case(**GOOD))


class Overflowing:
    """A model whose tower computes no numbers for the second study it looks at."""

    digest = "d" * 64

    def __init__(self) -> None:
        self._looked = 0

    def patch_tokens(self, images: Any) -> Any:
        self._looked += 1
        return np.full((len(images), 3, 4, 2), np.nan if self._looked == 2 else self._looked, np.float32)


def test_a_case_that_the_model_computes_no_numbers_for_is_left_out_and_named(tmp_path: Path) -> None:
    write_reference_cases(tmp_path / "cases", count=3, seed=1)

    with writing(tmp_path / "s1", model_digest=Overflowing.digest) as snapshot:
        indexed, left_out = collect(
            tmp_path / "cases", snapshot, Overflowing(), lambda _: [], 8, store=lambda *_: uuid.uuid4()
        )

    assert (indexed, left_out) == (2, ["00002: the model's vision tower computed no finite numbers"])
