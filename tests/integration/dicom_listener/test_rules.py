"""The dispatcher gives a settled study the tasks of its rule."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from db.answers import inquiries
from db.answers.answer import Question
from db.errors import ConfigurationError, NotPossible
from db.operations import invariants
from db.session import transaction
from db.settings import Settings
from db.studies import lifecycle
from deploy.cli import app
from dicom_listener import dispatch
from tests.integration.db.conftest import Arrivals

if TYPE_CHECKING:
    from pathlib import Path

    from db.models import Study

RULES = """
[[rule]]
name = "outside films"
ae_title = "CT_ER"
modality = "CT"
store_only = "not reported here"

[[rule]]
name = "retina"
modality = "OP"
report = false
questions = ["Is there a haemorrhage?"]
diagnoses = [{ options = ["normal", "abnormal"] }]

[[rule]]
name = "chest"
modality = "DX"
diagnoses = [{ options = ["normal", "abnormal"] }]
"""


@pytest.fixture
def settings(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    monkeypatch.setenv("PRELIM_DATABASE_URL", database_url)
    monkeypatch.setenv("PRELIM_RULES", str(path))
    return Settings(data_dir=tmp_path, database_url=database_url, rules=path, settle_seconds=0.01)


def settled(settings: Settings, modality: str) -> tuple[Study, list[str]]:
    """Return a study that the dispatcher has settled, and the kinds of its inquiries."""
    arrivals = Arrivals(settings.database())
    arrivals.image(modality=modality)
    with transaction(settings.database()) as session:
        session.connection().exec_driver_sql("UPDATE studies SET last_received_at = last_received_at - interval '1 h'")
    assert dispatch.settle(settings) == 1
    with transaction(settings.database()) as session:
        study = lifecycle.find(session, arrivals.uid)
        assert invariants.check(session, 3) == []
        return study, sorted(one.kind for one in inquiries.of_study(session, study.id))


def test_study_gets_the_tasks_of_its_rule(settings: Settings) -> None:
    stored, none = settled(settings, "CT")
    assert (stored.state, stored.reason, none) == ("not_reportable", "store_only", [])
    assert stored.detail == "only stored, by the rule 'outside films': not reported here"
    with pytest.raises(NotPossible, match="not reported here"), transaction(settings.database()) as session:
        inquiries.ask(session, lifecycle.find(session, str(stored.id), lock=True), Question("Mass?"), "tests")

    retina, both = settled(settings, "OP")
    assert (retina.state, retina.reason, both) == ("not_reportable", "no_report_task", ["diagnosis", "question"])
    chest, one = settled(settings, "DX")
    assert (chest.state, one) == ("settled", ["diagnosis"])
    other, nothing = settled(settings, "MR")
    assert (other.state, nothing) == ("settled", [])

    order = []
    while claim := Arrivals(settings.database()).claim():
        order.append((claim.kind, claim.priority))
    assert order == [("question", 0), ("diagnosis", 0), ("report", 0), ("diagnosis", 0), ("report", 0)]


def test_rules_are_explained_and_checked(settings: Settings) -> None:
    study, _ = settled(settings, "DX")

    explained = CliRunner().invoke(app.app, ["rules", "explain", str(study.id)]).output
    assert "ae_title: CT_ER\n" in explained
    assert "rule chest: modality is dx\n  report\n  diagnosis: normal, abnormal\n" in explained
    checked = CliRunner().invoke(app.app, ["rules", "check", str(settings.study.rules)]).output
    assert "rule outside films: ae_title is ct_er and modality is ct\n  only stored: not reported here\n" in checked
    assert checked.endswith("rule default: any study\n  report\n")


def test_dispatcher_refuses_to_start_with_an_invalid_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "wrong.toml").write_text("[[rule]]\nname = 'x'\nmodalty = 'CT'\n")

    with pytest.raises(ConfigurationError, match=r"wrong.toml: line 3: unknown key 'modalty'"):
        dispatch.run(settings.replace(rules=tmp_path / "wrong.toml"))
