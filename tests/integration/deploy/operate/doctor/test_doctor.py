"""`prelim doctor`: each check passes in a sound installation, and finds a broken one."""

from __future__ import annotations

import io
import json
import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from db.operations.heartbeats import Role
from db.release import release
from deploy.operate.backup import backup_check
from deploy.operate.doctor import database_content, database_server, doctor
from deploy.operate.doctor.data_disk import CHECKS as DISK_CHECKS
from deploy.operate.doctor.doctor import CHECKS, finding_of
from deploy.operate.doctor.finding import Check, Finding, Installation, Level
from tests.integration.db.conftest import Arrivals
from tests.integration.deploy.operate.doctor.breaks import BREAKS, H100, heartbeat, served
from tests.integration.deploy.operate.doctor.site import Site

if TYPE_CHECKING:
    from pathlib import Path

#: Checks that read the database.
IN_DATABASE = {check.name for check in (*database_server.CHECKS, *database_content.CHECKS)} | {
    "disk_growth",
    "storage_prefix",
    "audit_repository",
    "tls_served",
    "backup",
    "restore",
}
PASSED = {Level.OK, Level.NOT_CHECKED}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def prepared(site: Site, name: str, request: pytest.FixtureRequest) -> Site:
    """Give the site the services that a check examines."""
    if name in IN_DATABASE:
        site.values["database_url"] = request.getfixturevalue("database_url")
    if name == "api_keys":
        site.create_key()
    if name == "tls_names":
        site.values["canary_host"] = "prelim.test"
    if name == "tls_served":
        served(site)
    if name == "restore_scratch":
        # Not those of this machine.
        site.patch.setattr(backup_check, "PLACES", (site.path,))
    if name == "releases":
        heartbeat(site, Role.WORKER, {})
        # Written by the dispatcher.
        heartbeat(site, Role.LISTENER, {"open": 0, "release": release()}, process="host:1")
    if name.startswith("broker"):
        site.values["broker_url"] = request.getfixturevalue("broker_url")
    if name.startswith("gpu"):
        site.gpu(H100)
    if name.startswith("storage"):
        site.storage = request.getfixturevalue("object_storage")
        site.values |= site.storage.settings
    return site


def test_every_check_is_broken_by_a_test() -> None:
    assert list(BREAKS) == [check.name for check in CHECKS]
    assert len(BREAKS) >= 25


@pytest.mark.parametrize("name", BREAKS)
def test_check_passes_and_finds_what_is_broken(name: str, site: Site, request: pytest.FixtureRequest) -> None:
    sound = prepared(site, name, request).finding(name)
    assert sound.level in PASSED, sound
    broken = BREAKS[name](site)
    with broken if isinstance(broken, AbstractContextManager) else nullcontext():
        found = site.finding(name)

    assert found.level in {Level.WARNING, Level.FAULT}, found
    assert found.remedy


@pytest.mark.parametrize(("device", "level"), [("cuda", Level.FAULT), ("auto", Level.WARNING)])
def test_missing_driver_of_the_gpu_is_found_before_the_first_job(site: Site, device: str, level: Level) -> None:
    """In a container of the profile `gpu` on a host without driver or toolkit, with the torch of the package index."""
    site.gpu()
    (site.path / "bin" / "nvidia-smi").unlink()
    site.values["device"] = device

    found = finding_of(next(check for check in CHECKS if check.name == "gpu"), site.installation())

    assert found.level == level
    assert found.found == "there is no NVIDIA driver here"
    assert "NVIDIA Container Toolkit" in found.remedy


def test_folder_of_another_user_is_named_with_path_owner_and_command(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4321)
    owner = site.data.stat().st_uid
    began = time.monotonic()
    found = site.finding("data_owner")

    assert f"{site.data} belongs to user {owner}" in found.found
    assert "user 4321" in found.found
    assert f"chown -R 4321 {site.data}" in found.remedy
    assert time.monotonic() - began < 2


def test_unreachable_database_is_waited_for_once(site: Site) -> None:
    BREAKS["database"](site)
    installation = site.installation()
    database = [check for check in CHECKS if check.name in IN_DATABASE]
    findings = {check.name: doctor.finding_of(check, installation) for check in database}

    assert findings.pop("database").level is Level.FAULT
    assert "the database cannot be reached" in {finding.found for finding in findings.values()}
    assert not [finding for finding in findings.values() if finding.level in {Level.WARNING, Level.FAULT}]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(secret=st.text(alphabet="abcXYZ019-_.~", min_size=6, max_size=30))
def test_no_secret_is_printed(secret: str, site: Site) -> None:
    secret = f"S3{secret}"
    site.values["database_url"] = f"postgresql+psycopg://user:{secret}@127.0.0.1:1/name"
    site.values["broker_url"] = f"redis://:{secret}@127.0.0.1:1/0"
    site.values["flower_password"] = secret
    site.write("data/secrets/api-key", secret, mode=0o644)
    # Disk and images hold no secrets, and take most of the time.
    slow = {check.name for check in DISK_CHECKS} | {"decoders"}
    findings = [doctor.finding_of(check, site.installation()) for check in CHECKS if check.name not in slow]

    assert Level.FAULT in {finding.level for finding in findings}
    assert secret not in repr(findings)


def test_no_patient_is_printed(site: Site, database_url: str) -> None:
    arrivals = Arrivals(database_url)
    arrivals.running_job()
    site.values["database_url"] = database_url
    printed = repr([finding for _, finding in doctor.examine(site.installation())])

    assert "PHANTOM" not in printed
    assert arrivals.uid not in printed


@pytest.mark.parametrize(("level", "status"), doctor.STATUSES.items())
def test_exit_status_is_that_of_the_worst_finding(level: Level, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = [Check(each, "because", lambda _, each=each: Finding(each, "found", "do")) for each in (Level.OK, level)]
    monkeypatch.setattr(doctor, "CHECKS", checks)
    printed = io.StringIO()

    assert doctor.run(Console(file=printed, width=200), as_json=True) == status
    document = json.loads(printed.getvalue())
    assert document["status"] == level
    assert document["checks"][1] == {"name": level, "level": level, "found": "found", "why": "because", "do": "do"}


def test_invalid_setting_is_a_fault_without_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELIM_DATABASE_URL", "mysql://user:hidden@host/name")
    printed = io.StringIO()

    assert doctor.run(Console(file=printed, width=200), as_json=False) == 2
    assert "PRELIM_DATABASE_URL: " in printed.getvalue()
    assert "hidden" not in printed.getvalue()
    assert "docs/settings.md" in printed.getvalue()


def test_error_in_a_check_does_not_end_the_others(site: Site) -> None:
    def fails(_: Installation) -> Finding:
        raise ZeroDivisionError("PHANTOM^ONE")

    found = doctor.finding_of(Check("fails", "why", fails), site.installation())

    assert found.level is Level.WARNING
    assert "ZeroDivisionError" in found.found
    assert "PHANTOM" not in found.found
