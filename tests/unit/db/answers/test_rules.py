"""The rules file says which studies get which tasks; one with an error is refused with its line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from db.answers import rules
from db.answers.answer import Choice, Question
from db.errors import ConfigurationError
from deploy.cli import app

if TYPE_CHECKING:
    from pathlib import Path

SITE = """
# The first rule that matches decides.
[[rule]]
name = "outside films"
called_ae_title = "IMPORT*"
store_only = "outside films are not reported here"

[[rule]]
name = "portable chest"
modality = ["CR", "DX"]
body_part = "CHEST"
description = "*portable*"
questions = ["Is a tube in place?"]
diagnoses = [{ options = ["pneumothorax", "effusion"], several = true }, { options = ["normal", "abnormal"] }]

[[rule]]
name = "retina"
modality = "O[PT]"
report = false
diagnoses = [{ options = ["normal", "diabetic retinopathy"] }]

[[rule]]
name = "research scanner"
ae_title = ["RESEARCH_?", "LAB"]
store_only = "research"
"""
#: AE title, called AE title, modality, body part, description; rule, tasks in words.
TABLE = [
    ("CT1", "PRELIM", "CT", "HEAD", "CT head", "default", ["report"]),
    ("CT1", "IMPORT_CD", "CT", "HEAD", "", "outside films", ["only stored: outside films are not reported here"]),
    ("CT1", "PRELIM IMPORT", "CT", "HEAD", "", "default", ["report"]),
    (
        *("XR", "PRELIM", "DX", "CHEST, HAND", "Chest AP PORTABLE"),
        "portable chest",
        [
            "report",
            "question: Is a tube in place?",
            "diagnosis (several): pneumothorax, effusion",
            "diagnosis: normal, abnormal",
        ],
    ),
    ("XR", "PRELIM", "DX", "HAND", "portable", "default", ["report"]),
    ("XR", "PRELIM", "DX", "CHEST", "Chest PA", "default", ["report"]),
    ("XR", "PRELIM", "", "", "", "default", ["report"]),
    ("EYE", "PRELIM", "OP", "", "", "retina", ["diagnosis: normal, diabetic retinopathy"]),
    ("EYE", "PRELIM", "OPT", "", "", "default", ["report"]),
    ("research_1", "PRELIM", "MR", "", "", "research scanner", ["only stored: research"]),
    ("RESEARCH_12", "PRELIM", "MR", "", "", "default", ["report"]),
    ("LAB", "IMPORT", "MR", "", "", "outside films", ["only stored: outside films are not reported here"]),
]


@pytest.mark.parametrize(("ae", "called", "modality", "parts", "description", "name", "tasks"), TABLE)
def test_first_rule_that_matches_gives_the_tasks(
    ae: str, called: str, modality: str, parts: str, description: str, name: str, tasks: list[str]
) -> None:
    study = rules.Attributes((ae,), (called,), (modality,), tuple(parts.split(", ")), (description,))

    rule = rules.parsed(SITE).of(study)

    assert (rule.name, rule.tasks()) == (name, tasks)


def test_rule_holds_what_is_asked() -> None:
    assert rules.parsed(SITE).rules[1].asked == [
        Question("Is a tube in place?"),
        Choice(["pneumothorax", "effusion"], several=True),
        Choice(["normal", "abnormal"]),
    ]


GOOD = '[[rule]]\nname = "first"\nmodality = "CT"\n\n[[rule]]\nname = "second"\n'


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("rule = 1", r"line 1: a rule is a table"),
        ("[[rules]]\nname = 'x'", r"line 1: unknown key 'rules': expected \[\[rule\]\]"),
        ("[[rule]]\nname = x", "not TOML.*line 2"),
        ("[[rule]]\nmodality = 'CT'", "line 1: a rule needs a name"),
        (GOOD + "modalty = 'CT'", "line 7: unknown key 'modalty': expected one of name, ae_title"),
        (GOOD + "modality = ''", "line 7: an empty pattern"),
        (GOOD + "modality = []", "line 7: expected a pattern or a list"),
        (GOOD + "modality = ['CT', 3]", "line 7: expected a pattern or a list"),
        (GOOD + "ae_title = 'CT['", r"line 7: pattern 'CT\[': \[ has no closing \]"),
        (GOOD + "store_only = ' '", "line 7: expected the reason"),
        (GOOD + "store_only = 'x'\nreport = true", "line 7: .* has no other task"),
        (GOOD + "store_only = 'x'\nquestions = ['Mass?']", "line 7: .* has no other task"),
        (GOOD + "report = 'yes'", "line 7: expected true or false"),
        (GOOD + "questions = 'Mass?'", "line 7: expected a list of texts"),
        (GOOD + "questions = ['']", "line 7: the question is empty"),
        (GOOD + "diagnoses = [{ options = ['one'] }]", "line 7: 1 options"),
        (GOOD + "diagnoses = [{ option = ['one', 'two'] }]", "line 7: expected a list of tables"),
        (GOOD + "diagnoses = ['one', 'two']", "line 7: expected a list of tables"),
        (GOOD + f"questions = {['Mass?'] * 33}", "line 6: 33 questions and diagnoses: at most 32"),
        (GOOD + "diagnoses = [{ options = ['mass', 'None of the above'] }]", "line 7: option 2 means 'none of these'"),
        (GOOD + "[[rule]]\nname = 'first'", "line 8: another rule is called 'first'"),
    ],
)
def test_file_with_an_error_is_refused_with_its_line(content: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        rules.parsed(content)


def test_bracket_can_be_a_pattern() -> None:
    parsed = rules.parsed("[[rule]]\nname = 'x'\ndescription = '*[[]old]*'")

    assert parsed.of(rules.Attributes(("",), ("",), ("",), ("",), ("head [old]",))).name == "x"


@pytest.mark.parametrize("value", ["TH\u00d6RAX AP ", "tho\u0308rax", "\uff34h\u00f6rax"])
def test_case_and_composition_of_letters_make_no_difference(value: str) -> None:
    parsed = rules.parsed("[[rule]]\nname = 'x'\ndescription = ['th\u00f6rax', '* ap']")

    assert parsed.of(rules.Attributes(("",), ("",), ("",), ("",), (value,))).name == "x"


def test_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text("\ufeff" + SITE, encoding="utf-8")

    assert rules.load(tmp_path / "rules.toml") == rules.parsed(SITE)


def test_check_names_unused_rules_and_questions_that_have_no_answer(tmp_path: Path) -> None:
    asked = "questions = ['Has the effusion resolved?', 'Is there an effusion?']"
    (tmp_path / "rules.toml").write_text(f"[[rule]]\nname = 'all'\n{asked}\n[[rule]]\nname = 'late'\nmodality = 'CT'")

    checked = CliRunner().invoke(app.app, ["rules", "check", str(tmp_path / "rules.toml")]).output

    assert checked.count("never used: the rule all matches every study") == 2
    assert 'always answered "cannot tell": Has the effusion resolved? The question is negated' in checked
    assert checked.count("always answered") == 1


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"# \xe4")
    for name, problem in (("missing", "No such file"), ("latin", "not UTF-8 at byte 2")):
        with pytest.raises(ConfigurationError, match=f"{name}: {problem}"):
            rules.load(tmp_path / name)
    assert rules.load(None).rules == ()
