"""Checks of a draft: what each finds, what it leaves alone, and the words for it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from db.states import Check, CheckState
from worker.findings.labeller import sentences
from worker.grounding.checks.draft import DraftPart
from worker.grounding.checks.results import CHECKS, results
from worker.grounding.grounds import PartOfReport, grounds_by_part
from worker.grounding.picture import Picture
from worker.grounding.support import QuotedReport
from worker.phantoms import grammar
from worker.phantoms.cases import CATALOGUE, draw_case
from worker.prompting.report_text import split_report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[4]
DOCUMENT = (ROOT / "docs" / "report-sentences.md").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\{[^}]*\}")
BODY_PARTS = {"chest": "CHEST", "ct": "HEAD", "mr": "HEAD", "retina": "EYE", "endoscopy": "COLON"}


def draft(findings: str, impression: str, *, quoted: Sequence[str] | None = None, **facts: Any) -> DraftPart:
    """A part whose findings are grounded in *quoted* reports and in an image that shows what *facts* say."""
    labels = [f"{name} {side}" for name, side in facts.get("in_image", ())]
    picture = Picture(labels, [1.0] * len(labels), [1.0] * len(labels), np.ones((1, 4, len(labels)), np.float32), [1])
    cases = [QuotedReport(rank, sentences(text)) for rank, text in enumerate(quoted or (), start=1)]
    (grounds,) = grounds_by_part([PartOfReport("", findings, impression, cases, picture)], findings, impression)
    stated = [finding for sentence in grounds.sentences for finding in sentence.findings]
    return DraftPart(findings, impression, stated=None if quoted is None else stated, **facts)


def states(findings: str, impression: str = "See findings.", **facts: Any) -> dict[str, CheckState]:
    return {found.name: found.state for found in results([draft(findings, impression, **facts)])}


FAULTS: list[tuple[Check, str, str, dict[str, Any]]] = [
    (Check.SECTIONS, "Right pleural effusion.", "Left pleural effusion.", {}),
    (Check.SECTIONS, "No pleural effusion.", "Left pleural effusion.", {}),
    (Check.SECTIONS, "Clear lungs.", "Left pneumothorax.", {}),
    (Check.SECTIONS, "Nodule in the left upper zone.", "Nodule in the left lower zone.", {}),
    (Check.SECTIONS, "Left pleural effusion.", "No pleural effusion.", {}),
    (Check.SECTIONS, "Left pleural effusion.", "Normal study.", {}),
    (Check.SECTIONS, "Left pleural effusion.", "No acute abnormality.", {}),
    (Check.NEGATIONS, "No pleural effusion. Left pleural effusion.", "See above.", {}),
    (Check.NEGATIONS, "Clear.", "Cardiomegaly. No cardiomegaly.", {}),
    (Check.NEGATIONS, "No pneumothorax or large effusion. Small right pneumothorax.", "See above.", {}),
    (Check.NEGATIONS, "The lungs are clear. Left consolidation.", "See above.", {}),
    (Check.NEGATIONS, "Heart size is normal. Cardiomegaly.", "See above.", {}),
    (Check.NEGATIONS, "Left pleural effusion. The left costophrenic angle is sharp.", "See above.", {}),
    (Check.SECTIONS, "Left nodule.", "Clear lungs.", {}),
    (Check.SECTIONS, "Left pleural effusion.", "Essentially normal.", {}),
    (Check.SECTIONS, "Left pleural effusion.", "Study within normal limits.", {}),
    (Check.SIZES, "Small left pleural effusion.", "Large left pleural effusion.", {}),
    (Check.SIZES, "Small left pleural effusion.", "Massive pleural effusion.", {}),
    (Check.SIZES, "Left nodule measuring 8 mm.", "Nodule of 3 cm.", {}),
    (Check.SIZES, "Left nodule measuring 8 mm and a small left effusion.", "Left nodule, 30-mm.", {}),
    (Check.SIZES, "Left nodule of 5 mm.", "Left nodule of 2.1 cm.", {}),
    (Check.SIDE_AND_VIEW, "Fracture of the left wrist.", "Fracture.", {"lateralities": ["R", "R"]}),
    (Check.SIDE_AND_VIEW, "Fracture of the right knee. Left ankle normal.", "Fracture.", {"lateralities": ["L"]}),
    (Check.SIDE_AND_VIEW, "Fracture of the R femur.", "Fracture.", {"lateralities": ["L"]}),
    (Check.SIDE_AND_VIEW, "Lateral view: clear lungs.", "Normal.", {"lateralities": [""], "views": ["PA"]}),
    (Check.SIDE_AND_VIEW, "Frontal radiograph.", "Normal.", {"views": ["LL"]}),
    (Check.SIDE_AND_VIEW, "Left pleural effusion.", "Effusion.", {"views": ["LL"]}),
    (Check.SEX, "The uterus is normal.", "Normal.", {"patient_sex": "M"}),
    (Check.SEX, "No prostatic enlargement.", "Normal.", {"patient_sex": "F"}),
    (Check.SEX, "After hysterectomy.", "Normal.", {"patient_sex": "M"}),
    (Check.SEX, "Clips of a vasectomy.", "Normal.", {"patient_sex": "F"}),
    (Check.BODY_PART, "Clear.", "Normal.", {"body_part": "HEAD", "resembled_part": "CHEST"}),
    (Check.BODY_PART, "Left pleural effusion.", "Effusion.", {"body_part": "HEAD"}),
    (Check.PRIOR, "The effusion has increased since the previous study.", "Effusion.", {}),
    (Check.REPETITION, "No effusion. No effusion. No effusion.", "Normal.", {}),
    (Check.REPETITION, "The lungs the lungs the lungs are clear.", "Normal.", {}),
    (
        Check.REPETITION,
        "".join(f"{n} a small left effusion with adjacent atelectasis at the left base, " for n in range(6)) + "end.",
        "Normal.", {},
    ),
    (Check.TRUNCATION, "Clear lungs.", "Normal.", {"cut_off": True}),
    (Check.TRUNCATION, "Clear lungs.", "There is a", {}),
    (Check.IMPRESSION, "Clear lungs.", "", {}),
    (Check.IMPRESSION, "Clear lungs.", " . ", {}),
    *(
        (Check.IDENTIFYING, f"Clear lungs. {text}", "Normal.", {})
        for text in (
            "Compared with 12.03.2021.", "On March 3, 2020 there was none.", "20210312.", "Discussed with Dr. Smith.",
            "Patient: Jane Doe.", "DOE^JANE.", "MRN 1234567.", "Accession number: A12345.", "Call (555) 123-4567.",
            "+49 89 1234567.", "Write to a.b@example.org.", "Seen by ___.", "[**Name**].", "A 54-year-old.",
            "1.2.840.113619.2.5.1762583153.", "Dr. \u00d6zdemir.", "Dr van der Berg.", "Signed by: A. Miller.",
            "\uff24\uff52. Smith.", "D\u200br. Smith.", "5 Mai 2021.", "March 2021.", "<PATIENT>.", "Aged 78.",
        )
    ),
    (Check.SUPPORT, "Left pleural effusion.", "Effusion.", {"quoted": ["Right pleural effusion."]}),
    (Check.SUPPORT, "Pleural effusion.", "Effusion.", {"quoted": ["Left pleural effusion."]}),
    (Check.SUPPORT, "Left upper nodule.", "Nodule.", {"quoted": ["Left lower nodule. Nodule."]}),
    (Check.CRITICAL_OMITTED, "Clear.", "Normal.", {"in_image": [("pneumothorax", "left")]}),
    (
        Check.CRITICAL_OMITTED, "Right pneumothorax.", "Pneumothorax.",
        {"in_image": [("pneumothorax", "left"), ("pneumothorax", "right")]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "findings", "impression", "facts"), FAULTS)
def test_fault_is_found_by_its_check(check: Check, findings: str, impression: str, facts: dict[str, Any]) -> None:
    assert states(findings, impression, **facts)[check] == CheckState.WARNING


SOUND: list[tuple[Check, str, str, dict[str, Any]]] = [
    (Check.SECTIONS, "Opacity in the left lower zone.", "Left pneumonia.", {}),
    (Check.SECTIONS, "Pacemaker on the left.", "Normal study.", {}),
    (Check.SECTIONS, "Left and right pleural effusions.", "Left pleural effusion.", {}),
    (Check.NEGATIONS, "Left nodule. No other nodule.", "Nodule.", {}),
    (Check.NEGATIONS, "Left effusion. No right effusion.", "Left effusion.", {}),
    (Check.NEGATIONS, "The lungs are otherwise clear. Left consolidation.", "Consolidation.", {}),
    (Check.NEGATIONS, "The right lung is clear. Left consolidation.", "Consolidation.", {}),
    (Check.SIZES, "Small left and large right pleural effusion.", "Bilateral effusions.", {}),
    (Check.SIZES, "Small left and large right pleural effusion.", "Large pleural effusion.", {}),
    (Check.SIZES, "Left nodules of 4 and 9 mm.", "Nodules of up to 9 mm.", {}),
    (Check.SIZES, "Left nodule of 21 mm.", "Left nodule of 2.1 cm.", {}),
    (Check.SIDE_AND_VIEW, "Right wrist: fracture.", "Fracture.", {"lateralities": ["R"]}),
    (Check.SIDE_AND_VIEW, "Bilateral effusions, left larger.", "Effusions.", {"lateralities": ["L"]}),
    (Check.SIDE_AND_VIEW, "Left and right breast.", "Normal.", {"lateralities": ["R", "L"]}),
    (Check.SIDE_AND_VIEW, "Frontal and lateral views.", "Normal.", {"views": ["PA", "LL"]}),
    (Check.SEX, "The uterus is normal.", "Normal.", {"patient_sex": "F"}),
    (Check.BODY_PART, "Left rib fracture.", "Fracture.", {"body_part": "ABDOMEN"}),
    (Check.BODY_PART, "Left pleural effusion.", "Effusion.", {"body_part": "CHEST AND ABDOMEN"}),
    (Check.TRUNCATION, "Clear lungs.", "Normal (see above).", {}),
    (Check.IDENTIFYING, "T12 fracture, nodule of 3.5 x 2.1 cm in segment 4.", "Grade 2/3.", {}),
    (Check.SUPPORT, "Left pleural effusion.", "Effusion.", {"quoted": ["Left pleural effusion. Effusion."]}),
    (
        Check.SUPPORT, "Left pleural effusion.", "Left effusion.",
        {"quoted": ["Normal."], "in_image": [("pleural effusion", "left")]},
    ),
    (
        Check.CRITICAL_OMITTED, "Possible left pneumothorax.", "See above.",
        {"in_image": [("pneumothorax", "left")]},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("check", "findings", "impression", "facts"), SOUND)
def test_sound_text_passes(check: Check, findings: str, impression: str, facts: dict[str, Any]) -> None:
    assert states(findings, impression, **facts)[check] == CheckState.PASSED


@pytest.mark.parametrize(
    "check", [Check.SIDE_AND_VIEW, Check.SEX, Check.BODY_PART, Check.SUPPORT, Check.CRITICAL_OMITTED]
)
def test_check_without_its_facts_says_so(check: Check) -> None:
    (found,) = [found for found in results([DraftPart("Clear.", "Normal.")]) if found.name == check]

    assert found.state == CheckState.NOT_APPLICABLE
    assert found.sentences


def test_every_check_has_a_function_and_a_result_even_if_nothing_was_read() -> None:
    assert set(CHECKS) == set(Check)
    assert {found.state for found in results([])} == {CheckState.NOT_APPLICABLE}


def test_critical_finding_is_a_notice() -> None:
    assert states("Left pneumothorax.", "Left pneumothorax.")[Check.CRITICAL] == CheckState.NOTICE
    assert states("No pneumothorax.", "Normal.")[Check.CRITICAL] == CheckState.PASSED


def test_sentence_of_one_part_names_it() -> None:
    parts = [DraftPart("Clear.", "Normal.", name="CT HEAD"), DraftPart("Clear.", "", name="CT CHEST")]
    (found,) = [found for found in results(parts) if found.name == Check.IMPRESSION]

    assert found.sentences == ["CT CHEST: The report has no impression."]


def test_check_that_was_not_made_for_one_part_is_not_passed() -> None:
    parts = [
        DraftPart("Clear.", "Normal.", name="DX CHEST", views=["PA"]),
        DraftPart("Clear.", "Normal.", name="CT HEAD"),
    ]
    (found,) = [found for found in results(parts) if found.name == Check.SIDE_AND_VIEW]

    assert found.state == CheckState.NOT_APPLICABLE
    assert found.sentences == ["CT HEAD: the headers give neither side nor view"]


def test_identifying_text_is_not_repeated_in_the_sentence() -> None:
    found = results([DraftPart("Patient: Jane Doe, MRN 1234567, seen 12.03.2021.", "Normal.")])

    assert not [s for each in found for s in each.sentences if re.search(r"Jane|1234567|2021", s)]


def test_correct_reports_of_phantoms_pass_every_check() -> None:
    rng = np.random.default_rng(3)
    for family in CATALOGUE:
        for number in range(12):
            case = draw_case(rng, family, distractor=number == 0)
            report = grammar.report(case, number % grammar.STYLES)
            facts = {"body_part": BODY_PARTS.get(family, ""), "views": ["PA"], "quoted": [report], "patient_sex": "F"}
            found = results([draft(*split_report(report), **facts)])
            assert not [each for each in found if each.state == CheckState.WARNING], report


def test_side_swapped_in_one_section_of_a_phantom_report_is_found() -> None:
    rng = np.random.default_rng(4)
    swapped = found = 0
    for number in range(80):
        findings, impression = split_report(grammar.report(draw_case(rng, "chest"), number % grammar.STYLES))
        wrong = re.sub(r"\b([Ll]eft|[Rr]ight)\b", lambda m: "right" if m[0].lower() == "left" else "left", impression)
        # Of findings on both sides, the swapped text can be right.
        if len({word.lower() for word in re.findall(r"\b(?:[Ll]eft|[Rr]ight)\b", impression)}) == 1:
            swapped += 1
            found += states(findings, wrong)[Check.SECTIONS] == CheckState.WARNING
    assert swapped >= 20
    assert found == swapped


def source_sentences() -> Iterator[str]:
    """Sentences and reasons of the checks, from the source."""
    for path in sorted((ROOT / "worker" / "grounding" / "checks").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
        for node in ast.walk(tree):
            if id(node) in documentation | inner or not isinstance(node, ast.JoinedStr | ast.Constant):
                continue
            text = VARIABLE.sub("{}", ast.unparse(node).removeprefix("f")[1:-1])
            if re.fullmatch(r"(?:The|No|Critical|Shown) .*\.", text):
                yield text
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "NotApplicable":
                yield ast.unparse(node.args[0])[1:-1]


def test_the_source_holds_the_sentences_of_the_checks() -> None:
    assert len(set(source_sentences())) >= 25


@pytest.mark.parametrize("sentence", sorted(set(source_sentences())))
def test_every_sentence_of_a_check_is_documented(sentence: str) -> None:
    assert f"| `{sentence}` |" in VARIABLE.sub("{}", DOCUMENT)
