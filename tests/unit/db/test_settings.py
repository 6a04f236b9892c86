"""Settings: flat variables, secret files, old names, and refusals that name the variable."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from db import logs
from db.environment import OLD_NAMES, load_settings, variable
from db.errors import ConfigurationError
from db.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _unset_variables_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("PRELIM_"):
            monkeypatch.delenv(name)


def test_unknown_variable_is_refused_with_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_SETTLE_SECOND", "3")

    with pytest.raises(ConfigurationError, match="PRELIM_SETTLE_SECOND is not a setting .*PRELIM_SETTLE_SECONDS"):
        load_settings()


def test_error_names_the_variable_and_hides_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DICOM_PORT", "hunter2")

    with pytest.raises(ConfigurationError, match="PRELIM_DICOM_PORT") as refusal:
        load_settings()

    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("processes", ["0", "-1", "1.5", "many", "100000"])
def test_number_of_listener_processes_is_limited(monkeypatch: pytest.MonkeyPatch, processes: str) -> None:
    monkeypatch.setenv("PRELIM_LISTENER_PROCESSES", processes)

    with pytest.raises(ConfigurationError, match="PRELIM_LISTENER_PROCESSES"):
        load_settings()


def test_settle_rules_map_names_to_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_SETTLE_RULES", "CT=20, ER_XRAY=5")

    assert load_settings().study.settle_rules == {"CT": 20.0, "ER_XRAY": 5.0}


def test_priority_rules_map_ae_titles_to_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_PRIORITY_RULES", "ER XRAY=stat, RESEARCH=LOW")

    assert load_settings().study.priority_rules == {"ER XRAY": "STAT", "RESEARCH": "LOW"}


@pytest.mark.parametrize("rules", ["ER", "ER=SOON", "ER="])
def test_invalid_priority_is_refused(monkeypatch: pytest.MonkeyPatch, rules: str) -> None:
    monkeypatch.setenv("PRELIM_PRIORITY_RULES", rules)

    with pytest.raises(ConfigurationError, match="PRELIM_PRIORITY_RULES.*STAT"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RETENTION_RULES", "RESEARCH=keep,CT=30d,RESEARCH=30d"),
        ("SETTLE_RULES", "CT=20, CT=5"),
        ("PRIORITY_RULES", "ER=STAT,ER=LOW"),
    ],
)
def test_rules_with_two_values_for_a_name_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"PRELIM_{name}", value)
    with pytest.raises(ConfigurationError, match="two values for"):
        load_settings()


def test_invalid_settle_rules_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_SETTLE_RULES", "CT")

    with pytest.raises(ConfigurationError, match="PRELIM_SETTLE_RULES.*NAME=SECONDS"):
        load_settings()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_settings().dicom.dicom_port = 104


def test_missing_database_error_suggests_two_remedies(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"prelim up.*PRELIM_DATABASE_URL"):
        Settings(data_dir=tmp_path).database()


def test_embedded_servers_are_found_in_the_data_directory(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    settings.embedded_services.parent.mkdir()
    settings.embedded_services.write_text(
        json.dumps({"database_url": "postgresql://here", "broker_url": "redis://here"})
    )

    assert (settings.database(), settings.broker()) == ("postgresql://here", "redis://here")


def test_password_is_hidden_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DATABASE_URL", "postgresql+psycopg://prelim:hunter2@db/prelim")

    assert "hunter2" not in repr(load_settings())


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("BROKER_URL", "redis://:hunter2@127.0.0.1:port/0"),
        ("DATABASE_URL", "postgresql+psycopg://prelim:hunter2@db:port/prelim"),
    ],
)
def test_url_without_a_valid_port_is_an_error_without_its_password(
    monkeypatch: pytest.MonkeyPatch, setting: str, url: str
) -> None:
    monkeypatch.setenv(f"PRELIM_{setting}", url)

    with pytest.raises(ConfigurationError, match=rf"PRELIM_{setting}.*host or port is invalid") as error:
        load_settings()
    assert "hunter2" not in str(error.value)


def test_demo_ae_titles_are_a_comma_separated_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DEMO_AE_TITLES", "PHANTOMS, PRELIM_DEMO")
    assert load_settings().model.demo_ae_titles == ("PHANTOMS", "PRELIM_DEMO")

    monkeypatch.setenv("PRELIM_DEMO_AE_TITLES", "")
    assert load_settings().model.demo_ae_titles == ()


def test_environment_takes_precedence_over_a_secret_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "prelim_broker_url").write_text("redis://file\n")
    assert load_settings(tmp_path).broker() == "redis://file"

    monkeypatch.setenv("PRELIM_BROKER_URL", "redis://variable")
    assert load_settings(tmp_path).broker() == "redis://variable"


def test_flat_names_are_distributed_to_sections() -> None:
    settings = Settings(settle_seconds=1, dicom_port=104)

    assert (settings.study.settle_seconds, settings.dicom.dicom_port) == (1, 104)


def test_unknown_name_is_refused_by_the_constructor() -> None:
    with pytest.raises(ValidationError, match="settle_second"):
        Settings(settle_second=1)


def test_replace_changes_only_the_values_it_names() -> None:
    settings = Settings(settle_seconds=1, dicom_port=104).replace(dicom_port=105)

    assert (settings.study.settle_seconds, settings.dicom.dicom_port) == (1, 105)
    with pytest.raises(ValidationError):
        settings.replace(dicom_port=-1)


VALUES = {"refuse_strange": "false", "pictures_per_study": "4"}


@pytest.mark.parametrize(("old", "new"), OLD_NAMES.items())
def test_old_name_sets_the_new_setting(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    value = VALUES.get(old, "5000")
    monkeypatch.setenv(variable(old), value)

    assert load_settings().by_name()[new] == Settings(**{new: value}).by_name()[new] != Settings().by_name()[new]


def test_secret_file_with_an_old_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "prelim_maximum_attempts").write_text("7")

    assert load_settings(tmp_path).queue.max_attempts == 7


def test_old_and_new_name_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_MAXIMUM_ATTEMPTS", "2")
    monkeypatch.setenv("PRELIM_MAX_ATTEMPTS", "2")

    with pytest.raises(ConfigurationError, match=r"PRELIM_MAXIMUM_ATTEMPTS and PRELIM_MAX_ATTEMPTS are both set"):
        load_settings()


def test_old_name_is_logged_as_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PRELIM_NUDGE_SECONDS", "2")
    monkeypatch.setenv("PRELIM_LOG_FORMAT", "json")

    logs.configure(load_settings())

    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["event"]) == ("warning", "setting.renamed")
    assert (line["old"], line["new"]) == ("PRELIM_NUDGE_SECONDS", "PRELIM_REDELIVER_SECONDS")
