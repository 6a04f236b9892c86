"""Predictions are taken from a structured report where its meaning is certain; for the rest there is a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dicom_listener.indexing import specialist_reports
from dicom_listener.indexing.content_items import Code, Item

if TYPE_CHECKING:
    from collections.abc import Sequence


def item(value_type: str, concept: str, text: str = "", *children: Item, relationship: str = "CONTAINS") -> Item:
    return Item(value_type, relationship, Code(meaning=concept), text, None, "", children)


def finding(label: str, *children: Item, concept: str = "Finding") -> Item:
    return item("CODE", concept, label, *children)


def number(value: float | None, units: str = "1", concept: str = "Probability") -> Item:
    return Item("NUM", "CONTAINS", Code(meaning=concept), "", value, units, ())


def modifier(concept: str, text: str, *children: Item) -> Item:
    return item("CODE", concept, text, *children, relationship="HAS CONCEPT MOD")


ALGORITHM = (
    item("TEXT", "Algorithm Name", "chest-net", relationship="HAS OBS CONTEXT"),
    item("TEXT", "Algorithm Version", "1.2", relationship="HAS OBS CONTEXT"),
)


def read(*group: Item, algorithm: Sequence[Item] = ALGORITHM) -> tuple[list[tuple[str, float | None]], list[str]]:
    root = item("CONTAINER", "Imaging Measurement Report", "", item("CONTAINER", "Measurement Group", "", *group))
    report = specialist_reports.of_content(
        item("CONTAINER", "Imaging Measurement Report", "", *algorithm, *root.children), "1.2"
    )
    assert all((one.study, one.name, one.version) == ("1.2", "chest-net", "1.2") for one in report.given)
    return [(one.label, one.score) for one in report.given], list(report.reasons)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ((finding("Pleural effusion"),), ("Pleural effusion", None)),
        ((finding("Pleural effusion"), number(93, "%", "Certainty of Finding")), ("Pleural effusion", 0.93)),
        ((finding("Pleural effusion", number(0.93)),), ("Pleural effusion", 0.93)),
        ((finding("Mass"), number(0.03, "{0:1}", "Probability of mass")), ("Mass", 0.03)),
        ((finding("Mass"), number(12, "mm", "Diameter")), ("Mass", None)),
        ((item("CODE", "Pneumothorax", "Present", number(0.9)),), ("Pneumothorax", 0.9)),
        ((finding("Mass", item("IMAGE", "")),), ("Mass", None)),
        ((item("TEXT", "Finding", "small mass"), modifier("Laterality", "Left")), ("left small mass", None)),
        ((finding("Left mass"), modifier("Laterality", "Left")), ("Left mass", None)),
        ((finding("Mass", modifier("Finding Site", "Lung", modifier("Laterality", "Right"))),), ("right Mass", None)),
    ],
)
def test_unambiguous_evaluation_is_a_prediction(group: Sequence[Item], expected: tuple[str, float | None]) -> None:
    assert read(*group) == ([expected], [])


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ((), specialist_reports.NOTHING),
        ((item("CODE", "Pneumothorax", "Absent", number(0.97)),), specialist_reports.DENIED),
        ((item("CODE", "Pneumothorax", "Indeterminate"),), specialist_reports.UNCLEAR),
        ((finding("Mass"), item("CODE", "Presence", "Absent")), specialist_reports.UNCLEAR),
        ((item("CODE", "Presence", "Present"),), specialist_reports.UNCLEAR),
        ((finding("Positive"),), specialist_reports.UNCLEAR),
        ((finding("Mass", modifier("Finding context", "Known absent")),), specialist_reports.MODIFIED),
        ((finding("Mass", item("CODE", "Presence", "Absent")),), specialist_reports.MODIFIED),
        ((finding("Mass"), modifier("Laterality", "Unknown")), specialist_reports.MODIFIED),
        ((finding("Right mass"), modifier("Laterality", "Left")), specialist_reports.OTHER_SIDE),
        ((finding("Bilateral opacities"), modifier("Laterality", "Left")), specialist_reports.OTHER_SIDE),
        (
            (finding("Mass", modifier("Laterality", "Right")), modifier("Laterality", "Left")),
            specialist_reports.OTHER_SIDE,
        ),
        ((finding("Mass"), finding("Nodule"), number(0.4)), specialist_reports.SEVERAL_NUMBERS),
        ((finding("Mass"), number(0.4), number(0.6)), specialist_reports.SEVERAL_NUMBERS),
        ((finding("Mass"), number(0.4, concept="Probability of cancer")), specialist_reports.SEVERAL_NUMBERS),
        ((number(0.4),), specialist_reports.SEVERAL_NUMBERS),
        ((finding("Mass"), number(93)), specialist_reports.INVALID_NUMBER),
        ((finding("Mass"), number(None)), specialist_reports.INVALID_NUMBER),
        ((finding("Mass"), number(0.4, "mm")), specialist_reports.INVALID_NUMBER),
        ((finding("Mass", number(0.4)), finding("Mass", number(0.6))), specialist_reports.DIFFERENT),
        ((finding("x" * 101),), "the label has 101 characters: at most 100 are allowed"),
        ((finding("a\nb"),), "the label holds a control character: send one line of plain text"),
    ],
)
def test_anything_else_is_not_taken_and_has_a_reason(group: Sequence[Item], reason: str) -> None:
    assert read(*group) == ([], [reason])


def test_certain_groups_are_taken_beside_others() -> None:
    group = item("CODE", "Pneumothorax", "Absent"), item("CODE", "Effusion", "Present")

    assert read(*group) == ([("Effusion", None)], [specialist_reports.DENIED])


@pytest.mark.parametrize(
    "algorithm", [(), ALGORITHM[:1], (*ALGORITHM, *ALGORITHM[:1], item("TEXT", "Algorithm Name", "b"))]
)
def test_report_without_one_algorithm_and_version_gives_no_prediction(algorithm: Sequence[Item]) -> None:
    assert read(finding("Mass"), algorithm=algorithm) == ([], [specialist_reports.NO_ALGORITHM])


def nested(inner: Item, *around: Item) -> tuple[list[str], list[str]]:
    """Read *inner*, in a container inside of one with the modifiers *around*."""
    group = item("CONTAINER", "Measurement Group", "", inner)
    root = item("CONTAINER", "Report", "", *ALGORITHM, item("CONTAINER", "Findings", "", *around, group))
    report = specialist_reports.of_content(root, "1.2")
    return [one.label or str(one.draft) for one in report.given], list(report.reasons)


def test_modifier_of_a_container_holds_for_the_containers_inside() -> None:
    left, absent = modifier("Laterality", "Left"), modifier("Finding context", "Known absent")

    assert nested(finding("Mass"), left) == (["left Mass"], [])
    assert nested(finding("Mass"), absent) == ([], [specialist_reports.MODIFIED])
    assert nested(finding("Right mass"), left) == ([], [specialist_reports.OTHER_SIDE])
    assert nested(sentence("Finding", "A mass."), left) == ([], [specialist_reports.MODIFIED])
    assert nested(sentence("Finding", "A mass."), modifier("Procedure reported", "CT")) == (["Findings: A mass."], [])


def test_too_many_predictions_are_none() -> None:
    given, reasons = read(*(finding(f"label {number}") for number in range(65)))

    assert (given, reasons) == ([], [specialist_reports.TOO_MANY])


def sentence(concept: str, text: str, *children: Item) -> Item:
    return item("TEXT", concept, text, *children)


def drafts(*group: Item, algorithm: Sequence[Item] = ALGORITHM) -> tuple[list[str], list[str]]:
    root = item("CONTAINER", "Report", "", *algorithm, item("CONTAINER", "Findings", "", *group))
    report = specialist_reports.of_content(root, "1.2")
    return [one.draft for one in report.given if one.draft], list(report.reasons)


def test_sentences_of_a_report_are_its_draft_with_the_sections_in_order() -> None:
    group = sentence("Impression", "Effusion."), sentence("Finding", "Left effusion."), sentence("Findings", "No mass.")

    assert drafts(*group) == (["Findings: Left effusion.\nNo mass.\nImpression: Effusion."], [])
    assert drafts(sentence("Finding", "two\nlines"))[0] == ["Findings: two\nlines"]
    assert drafts(sentence("Conclusion", "x" * 101))[0] == ["Impression: " + "x" * 101]


def test_labels_and_a_draft_are_taken_from_one_report() -> None:
    given, reasons = read(finding("Mass"), number(0.9), sentence("Impression", "A mass."))

    assert (given, reasons) == ([("Mass", 0.9), ("", None)], [])


@pytest.mark.parametrize(
    ("group", "reason"),
    [
        ((sentence("Finding", "Effusion.", modifier("Laterality", "Left")),), specialist_reports.MODIFIED),
        ((sentence("Finding", "Effusion."), modifier("Laterality", "Left")), specialist_reports.MODIFIED),
        ((sentence("Finding", "Mass.", modifier("Finding context", "Known absent")),), specialist_reports.MODIFIED),
        ((sentence("Finding", "A mass.", item("CODE", "Presence", "Absent")),), specialist_reports.MODIFIED),
        ((sentence("Finding", "x" * 8000),), "the draft has 8010 characters: at most 8000 are allowed"),
        ((sentence("Finding", "A mass. \x1b[2J"),), "the draft holds a control character: send plain text"),
        ((sentence("Comment", "A mass."),), specialist_reports.UNCLEAR),
    ],
)
def test_sentences_that_may_mean_something_else_are_no_draft(group: Sequence[Item], reason: str) -> None:
    assert drafts(*group) == ([], [reason])


def test_report_of_a_person_gives_no_draft() -> None:
    assert drafts(sentence("Impression", "Effusion."), algorithm=()) == ([], [specialist_reports.NO_ALGORITHM])
