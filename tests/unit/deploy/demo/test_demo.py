"""Settings of the demo, and the environment that hands them to its processes."""

from __future__ import annotations

import pytest

from db.environment import load_settings
from deploy.demo import demo
from deploy.demo.demo import DEFAULTS, demo_settings, environment_of


@pytest.fixture(autouse=True)
def no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("PRELIM_DATA_DIR", str(tmp_path))
    for name in ("PRELIM_SETTLE_SECONDS", "PRELIM_LOG_LEVEL", "PRELIM_API_PORT", "PRELIM_CHECKPOINT", "PRELIM_DTYPE"):
        monkeypatch.delenv(name, raising=False)


def test_demo_has_defaults_of_its_own() -> None:
    settings = demo_settings(load_settings())

    assert settings.study.settle_seconds == DEFAULTS["settle_seconds"]
    assert (settings.checkpoint_directory / "config.json").is_file()


def test_settings_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_SETTLE_SECONDS", "30")
    monkeypatch.setenv("PRELIM_DTYPE", "bfloat16")

    settings = demo_settings(load_settings())

    assert (settings.study.settle_seconds, settings.model.dtype) == (30, "bfloat16")


def test_port_in_use_is_replaced_unless_the_user_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "is_free", lambda *_: False)
    monkeypatch.setenv("PRELIM_API_PORT", "8081")
    given = load_settings()

    settings = demo_settings(given)

    assert settings.api.api_port == 8081
    assert settings.dicom.dicom_port != given.dicom.dicom_port


def test_other_processes_read_the_same_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given = load_settings()
    settings = demo_settings(given)
    for name, value in environment_of(settings, given).items():
        monkeypatch.setenv(name, value)

    assert load_settings() == settings
