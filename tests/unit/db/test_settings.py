"""Settings refuse what would silently do nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from db.errors import ConfigurationError
from db.settings import Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("PRELIM_"):
            monkeypatch.delenv(name)


def test_a_misspelt_variable_refuses_to_start_and_names_the_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_SETTLE_SECOND", "3")

    with pytest.raises(ConfigurationError, match="PRELIM_SETTLE_SECOND is not a setting .*PRELIM_SETTLE_SECONDS"):
        load_settings()


def test_a_wrong_value_names_its_variable_and_not_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DICOM_PORT", "hunter2")

    with pytest.raises(ConfigurationError, match="PRELIM_DICOM_PORT") as refusal:
        load_settings()

    assert "hunter2" not in str(refusal.value)


def test_settle_rules_are_read_as_seconds_per_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_SETTLE_RULES", "CT=20, ER_XRAY=5")

    assert load_settings().settle_rules == {"CT": 20.0, "ER_XRAY": 5.0}


def test_priority_rules_are_read_as_a_level_per_ae_title(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_PRIORITY_RULES", "ER XRAY=stat, RESEARCH=LOW")

    assert load_settings().priority_rules == {"ER XRAY": "STAT", "RESEARCH": "LOW"}


@pytest.mark.parametrize("rules", ["ER", "ER=SOON", "ER="])
def test_a_priority_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch, rules: str) -> None:
    monkeypatch.setenv("PRELIM_PRIORITY_RULES", rules)

    with pytest.raises(ConfigurationError, match="PRELIM_PRIORITY_RULES.*STAT"):
        load_settings()


def test_settle_rules_that_are_no_rules_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_SETTLE_RULES", "CT")

    with pytest.raises(ConfigurationError, match="PRELIM_SETTLE_RULES.*NAME=SECONDS"):
        load_settings()


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValidationError):
        load_settings().dicom_port = 104


def test_without_a_database_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"prelim up.*PRELIM_DATABASE_URL"):
        Settings(data_dir=tmp_path).database()


def test_a_running_installation_tells_other_commands_where_its_servers_are(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    settings.embedded_services.parent.mkdir()
    settings.embedded_services.write_text(
        json.dumps({"database_url": "postgresql://here", "broker_url": "redis://here"})
    )

    assert (settings.database(), settings.broker()) == ("postgresql://here", "redis://here")


def test_a_password_does_not_show_when_settings_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DATABASE_URL", "postgresql+psycopg://prelim:hunter2@db/prelim")

    assert "hunter2" not in repr(load_settings())


def test_the_ae_titles_of_a_demo_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DEMO_AE_TITLES", "PHANTOMS, PRELIM_DEMO")
    assert load_settings().demo_ae_titles == ("PHANTOMS", "PRELIM_DEMO")

    monkeypatch.setenv("PRELIM_DEMO_AE_TITLES", "")
    assert load_settings().demo_ae_titles == ()
