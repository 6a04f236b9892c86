"""Sentences that the program adds to a report, and their list in the documentation."""

from __future__ import annotations

import ast
import re
import uuid
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from db.reports.versions import EvidenceLine, Quoted, QuotedDraft, erased
from tests.unit.worker.fakes import compared
from worker.images.decode.patient_axes import CONTRADICTORY, IMPOSSIBLE, MISSING
from worker.images.render import quality
from worker.images.render.orientation import NO_BREAST, TWO_SIDES, WRONG_BREAST, WRONG_VIEW
from worker.images.study_images import LeftOut, PartImages, RenderedImage, StudyImages
from worker.limitations import NO_TEXT, ReadPart, basis_of, fixed_text, limitations
from worker.pipeline import case_0, question_forms
from worker.pipeline.answering import BELOW_LIMIT, DENIED, EQUAL, NOT_TOLD, VETOED
from worker.pipeline.diagnosing import DIVIDED, NOT_GIVEN, OTHER_PARTS, TIED
from worker.prompting.fitting import NO_STATEMENT, SUSPICIOUS, TOO_LONG
from worker.retrieval.index import Neighbour
from worker.retrieval.retrieve import Retrieval
from worker.retrieval.validation import Validation

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "report-sentences.md").read_text(encoding="utf-8")
#: A variable part in a documented sentence, and in one made by an f-string.
VARIABLE = re.compile(r"\{[^}]*\}")

#: A comparison of images of a kind that the model was validated for.
of_index = partial(Retrieval, validated=True)
REJECTED = of_index(compared(3.0, 4.2, reference_images=250), rejected=True)


PROBLEMS = (MISSING, IMPOSSIBLE, CONTRADICTORY, WRONG_VIEW, NO_BREAST, TWO_SIDES, WRONG_BREAST)


def oriented(*problems: str) -> StudyImages:
    """A study with an image for each problem of orientation; empty for none."""
    (image, *_) = study().images
    images = [replace(image, orientation_problem=problem) for problem in problems]
    return StudyImages([PartImages(images, "views", "DX", "CHEST")], [])


def study(*warnings: str, left_out: tuple[str, ...] = ()) -> StudyImages:
    image = RenderedImage(np.zeros((8, 8, 3), np.uint8), "2.25.1", 0, "view 1 of 1", {}, list(warnings))
    omitted = [LeftOut("2.25.2", None, "undecodable", detail) for detail in left_out]
    return StudyImages([PartImages([image, image], "2 of 2 views", "DX", "CHEST")], omitted)


def sentences(images: StudyImages | None = None, retrieval: Retrieval | None = None, **changes: Any) -> list[str]:
    values: dict[str, Any] = {"indexed": True, "finish_reason": "stop", "late_arrivals": []} | changes
    found = of_index(compared(1.0, 1.5)) if retrieval is None else retrieval
    of_study = images or study()
    parts = [ReadPart(part, found, values.pop("finish_reason")) for part in of_study.parts]
    return limitations(of_study, parts, **values)


def part(*warnings: str) -> PartImages:
    return study(*warnings).parts[0]


def test_normal_report_has_no_limitations_and_no_fixed_text() -> None:
    retrieval = of_index(compared(1.0, 1.5))

    assert sentences() == []
    assert fixed_text(part(), retrieval) is None
    assert basis_of([ReadPart(part(), retrieval)]) == "2 of 2 views"


def test_kind_that_the_model_was_not_validated_for_is_marked_or_withheld() -> None:
    unknown, poor = Retrieval(compared(1.0)), Retrieval(compared(1.0), validation=Validation(12, 20, 20, 3))

    assert "was not measured on this site's archive" in sentences(retrieval=unknown)[0]
    assert "on 12 chest x-ray cases" in sentences(retrieval=poor)[0]
    assert "strict F1 of 0.15" in sentences(retrieval=poor)[0]
    healthy = Retrieval(compared(1.0), validation=Validation(16, 3, 3, 3))
    assert (
        "the reports of 16 chest x-ray cases of this site's archive state only 3 findings"
        in (sentences(retrieval=healthy)[0])
    )
    assert sentences(indexed=False)[0].startswith("Not validated here: no reference index exists")
    assert fixed_text(part(), poor) is None
    assert "not validated here for chest x-ray images" in (fixed_text(part(), poor, withhold=True) or "")
    assert fixed_text(part(), of_index(compared(1.0)), withhold=True) is None


def test_rejected_study_names_scores_and_threshold() -> None:
    measured = "scores 3.00 to 4.20, threshold 2.00"
    assert sentences(retrieval=REJECTED) == [
        f"The images were not analysed: all are out of distribution for modality DX ({measured}).",
        "If the images are correct, the study must be read without a preliminary report; contact the operator.",
    ]


def test_equal_scores_are_named_once() -> None:
    assert "(score 3.00, threshold 2.00)" in sentences(retrieval=of_index(compared(3.0, 3.0)))[0]


def test_image_out_of_distribution_is_named_by_its_number() -> None:
    assert sentences(retrieval=of_index(compared(1.0, 3.0))) == [
        "Image 2 was not used for retrieval: out of distribution (score 3.00, threshold 2.00)."
    ]


def test_study_without_diagnostic_information_is_not_compared() -> None:
    blank = study(quality.BLANK)

    assert sentences(blank, Retrieval()) == [
        "Images 1 and 2 are blank (all pixels have the same value).",
    ]
    assert fixed_text(blank.parts[0], Retrieval()) is not None


def test_omitted_images_are_counted_by_cause() -> None:
    omitted = study(left_out=("the file is empty", "the image cannot be decoded", "the file is empty"))

    assert sentences(omitted) == [
        "2 images were not used: the file is empty.",
        "1 image was not used: the image cannot be decoded.",
    ]


@pytest.mark.parametrize(
    ("problems", "named"),
    [
        (["", MISSING], "Image 2"),
        ([MISSING, MISSING], "Images 1 and 2"),
        ([MISSING] * 8, "Images 1 to 8"),
        ([MISSING, "", MISSING, MISSING], "Images 1, 3 and 4"),
    ],
)
def test_images_without_orientation_are_named_in_one_sentence(problems: list[str], named: str) -> None:
    consequence = "right and left may be reversed in this report. Check sides against the images."

    assert sentences(oriented(*problems)) == [f"{named}: the orientation is not given; {consequence}"]


def test_a_rejected_study_has_no_sentence_about_sides() -> None:
    assert not any("right and left" in sentence for sentence in sentences(oriented(MISSING), REJECTED))


def test_header_that_contradicts_the_images_is_named() -> None:
    contradiction = "The header says chest x-ray; the images resemble spine x-ray images."

    assert sentences(retrieval=of_index(compared(1.0, 1.0, resembled_part="SPINE"))) == [
        f"{contradiction} Check that they belong to this patient and body part."
    ]


def about_cases() -> list[str]:
    cases = [Quoted(uuid.UUID(int=n), 0.04, "", "", [SUSPICIOUS, TOO_LONG, NO_STATEMENT]) for n in (1, 2)]
    similar = [Neighbour(uuid.UUID(int=n), 0.04) for n in (1, 2, 3)]
    few = of_index(compared(1.0, 1.5, reference_images=7), similar=similar)
    read = ReadPart(part(), few, cases=cases, first_case=2)
    return limitations(study(), [read], indexed=True, late_arrivals=[])


def test_weak_and_lost_evidence_is_named() -> None:
    found = about_cases()

    assert found[0] == "1 of 3 similar earlier cases were erased before they could be quoted."
    assert found[1] == f"Similar earlier case 2, 3: {SUSPICIOUS}."
    assert found[-2:] == [
        "The similar earlier cases are weak evidence: the reference index has only 7 images of modality DX.",
        "The similar earlier cases are weak evidence: the nearest case is hardly similar (similarity 0.040).",
    ]


def every_sentence() -> Iterator[str]:
    warnings = [quality.BLANK, quality.SATURATED, quality.NOISE, quality.SMALL, quality.TINY]
    late = ["2 images of series 4 arrived 14 min later"]
    yield from sentences(study(quality.SMALL, quality.SMALL))
    yield from sentences(study(*warnings, left_out=("the file is empty",)), late_arrivals=late)
    yield from sentences(oriented(*PROBLEMS))
    yield from sentences(oriented(MISSING, MISSING))
    for reason in ("length", "deadline"):
        yield from sentences(indexed=False, finish_reason=reason)
    for ood in (None, compared(3.0, 3.0), compared(3.0, 4.0), compared(1.0, 3.0)):
        yield from sentences(retrieval=of_index(ood))
    yield from sentences(retrieval=Retrieval(compared(1.0)))
    yield from sentences(retrieval=of_index(compared(1.0), same_images=1))
    yield from sentences(retrieval=of_index(compared(1.0), same_images=2))
    yield from sentences(retrieval=Retrieval(compared(1.0), validation=Validation(12, 20, 20, 3)))
    yield from sentences(retrieval=REJECTED)
    yield from sentences(retrieval=of_index(compared(1.0, 1.0, resembled_part="SPINE")))
    yield from sentences(retrieval=of_index(compared(1.0, 1.0, min_similarity=0.95), below_threshold=0.9))
    yield f"Findings: {NO_TEXT}"
    yield from sentences(cut_to_fit=True)
    yield from about_cases()
    for count in (1, 2):
        yield from erased([EvidenceLine(1, None, 0.9, "", "", [], None, None, None)] * count)
    yield basis_of([ReadPart(part(), REJECTED)])
    for warning in (TOO_LONG, SUSPICIOUS, NO_STATEMENT, case_0.SEVERAL_PARTS, case_0.NOT_READ):
        quoted = QuotedDraft("a", "1", "x", "Mass.", "Mass.", [warning])
        for count in (2, 3):
            yield from case_0.limitations([quoted] * count, quoted)
    for images, retrieval in ((part(quality.BLANK), Retrieval()), (part(), REJECTED)):
        yield from re.split(r" (?=Impression:)", str(fixed_text(images, retrieval)))


@pytest.mark.parametrize("sentence", sorted(set(every_sentence())))
def test_every_sentence_is_documented(sentence: str) -> None:
    documented = re.findall(r"^\| `([^`]+)` \|", DOCUMENT, re.MULTILINE)
    patterns = [".+".join(map(re.escape, VARIABLE.split(line))) for line in documented]

    assert any(re.fullmatch(pattern, sentence) for pattern in patterns)


@pytest.mark.parametrize(
    "sentence",
    [
        BELOW_LIMIT,
        NOT_TOLD,
        VETOED,
        DENIED,
        EQUAL,
        OTHER_PARTS,
        TIED,
        DIVIDED,
        NOT_GIVEN,
        *(
            text
            for text in vars(question_forms).values()
            if isinstance(text, str) and text.endswith(".") and " " in text
        ),
    ],
)
def test_every_sentence_about_an_answer_is_documented(sentence: str) -> None:
    assert f"| `{VARIABLE.sub('{}', sentence)}` |" in VARIABLE.sub("{}", DOCUMENT)


def header_warnings() -> Iterator[str]:
    """Warnings about headers, from the source."""
    for path in (ROOT / "worker" / "images" / "render").glob("header_warnings.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Yield) and isinstance(node.value, (ast.Constant, ast.JoinedStr)):
                yield VARIABLE.sub("{}", ast.unparse(node.value).removeprefix("f")[1:-1])


@pytest.mark.parametrize("warning", sorted(set(header_warnings())))
def test_every_warning_about_a_header_is_documented(warning: str) -> None:
    assert f"| `{warning}` |" in VARIABLE.sub("{}", DOCUMENT)


def causes() -> Iterator[str]:
    """Causes for which an object cannot be used, from the source."""
    for path in sorted((ROOT / "worker" / "images").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Unreadable", "LeftOut"):
                detail = node.args[-1]
                if isinstance(detail, (ast.Constant, ast.JoinedStr)):
                    yield VARIABLE.sub("{}", ast.unparse(detail).removeprefix("f")[1:-1])


@pytest.mark.parametrize("cause", sorted(set(causes())))
def test_every_cause_of_an_unused_image_is_documented(cause: str) -> None:
    assert f"| `{cause}` |" in VARIABLE.sub("{}", DOCUMENT)
