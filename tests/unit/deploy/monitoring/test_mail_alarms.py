"""The script that mails alarms where there is no Alertmanager."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from api.v1.schemas import Health
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = REPOSITORY / "deploy" / "monitoring" / "mail-alarms"
DAY = 86400
SOUND = Health(status="ok", database="ok", workers=2)
FULL = Health(status="degraded", database="ok", workers=2, alarms=["disk_full", "objects_refused"])
ALONE = Health(status="degraded", database="ok", workers=0)
AWAY = Health(status="degraded", database="unreachable", workers=0)


@dataclass
class Machine:
    """A machine with `curl` and `mail`, whose answers and mails are files."""

    path: Path

    def __post_init__(self) -> None:
        self.program("curl", 'cat answer; exit "$(cat status)"')
        self.program("mail", '[ ! -e broken ] || exit 1; { echo "$@"; cat; } > "mail.$(ls | wc -l)"')

    def program(self, name: str, text: str) -> None:
        (self.path / name).write_text(f"#!/bin/sh\n{text}\n")
        (self.path / name).chmod(0o700)

    def run(self, answer: str, status: int = 0) -> list[str]:
        """Run the script once, and return the mails that it sent."""
        (self.path / "answer").write_text(answer)
        (self.path / "status").write_text(str(status))
        environment = {"PATH": f"{self.path}:{os.environ['PATH']}"}
        command = [SCRIPT, "http://api:8080", self.path / "mailed", "oncall@hospital.example"]
        ran = subprocess.run(command, cwd=self.path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == (1 if (self.path / "broken").exists() else 0), ran.stderr
        found = list(self.path.glob("mail.*"))
        texts = [each.read_text() for each in found]
        for each in found:
            each.unlink()
        return texts


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (FULL, ["disk_full", "objects_refused"]),
        (ALONE, ["no worker is alive"]),
        (AWAY, ["database unreachable", "no worker"]),
    ],
)
def test_state_is_mailed_when_it_changes_and_when_it_ends(machine: Machine, health: Health, words: list[str]) -> None:
    assert len(machine.run(SOUND.model_dump_json())) == 1, "the first run proves that mails arrive"
    assert machine.run(SOUND.model_dump_json()) == []

    [sent] = machine.run(health.model_dump_json())
    assert "oncall@hospital.example" in sent
    assert all(word in sent.splitlines()[0] for word in words), "in the subject"
    assert machine.run(health.model_dump_json()) == []
    [ended] = machine.run(SOUND.model_dump_json())
    assert "Prelim: ok" in ended


def test_api_that_does_not_answer_is_mailed_with_the_cause(machine: Machine) -> None:
    machine.run(SOUND.model_dump_json())
    [sent] = machine.run("curl: (7) Failed to connect to api port 8080 after 2 ms", status=7)

    assert "Prelim: no answer of http://api:8080 (curl: 7)" in sent
    assert machine.run("curl: (7) Failed to connect to api port 8080 after 3 ms", status=7) == [], "mailed once"


def test_error_of_a_proxy_is_no_sound_state(machine: Machine) -> None:
    machine.run(SOUND.model_dump_json())
    [sent] = machine.run("<html>\n502 Bad Gateway\n</html>")
    assert "Bad Gateway" in sent.splitlines()[0], "the subject is one line"


def test_alarm_that_stays_is_mailed_each_day(machine: Machine) -> None:
    machine.run(FULL.model_dump_json())
    before = (machine.path / "mailed").stat().st_mtime - DAY - 1
    os.utime(machine.path / "mailed", (before, before))

    assert len(machine.run(FULL.model_dump_json())) == 1
    assert machine.run(FULL.model_dump_json()) == []


def test_mail_that_could_not_be_sent_is_tried_again(machine: Machine) -> None:
    machine.run(SOUND.model_dump_json())
    (machine.path / "broken").touch()
    assert machine.run(FULL.model_dump_json()) == []
    (machine.path / "broken").unlink()

    assert "disk_full" in machine.run(FULL.model_dump_json())[0]
