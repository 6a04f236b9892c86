"""Processes without a heartbeat and refusals of the listener raise alarms, in every place that shows them."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import text

from db.models import Process
from db.operations import alarms
from db.operations.heartbeats import Role
from db.session import transaction
from db.settings import Settings
from deploy.operate import status

if TYPE_CHECKING:
    from pathlib import Path

    from db.operations.alarms import Alarm

LIMIT = ["limit", "limit of associations reached", 12, 3.0]
UNKNOWN = ["association", "calling AE title not recognized", 1, 20.0]
FULL = ["object", "the disk is full", 400, 299.0]
OLD = ["object", "the data set is truncated", 5, 301.0]


def listener(*causes: list[Any], open_: int = 7) -> dict[str, Any]:
    return {
        "parent": {"process": "host:parent"},
        "open": open_,
        "limit": 100,
        "refused": [["CT_1", "the disk is full", 400]],
        "causes": list(causes),
    }


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=SecretStr(database_url), data_dir=tmp_path, alarm_seconds=300)


def record(url: str, role: Role, info: dict[str, Any] | None = None, *, seconds: int = 60, silent: int = 0) -> None:
    """Record a process that has run for *seconds* and is *silent* since."""
    with transaction(url) as session:
        session.merge(Process(name=f"host:{role}", role=role, info=info or {}))
        session.flush()
        session.execute(
            text(
                "UPDATE processes SET started_at = clock_timestamp() - :run * interval '1 s',"
                " seen_at = clock_timestamp() - :silent * interval '1 s' WHERE role = :role"
            ),
            {"run": seconds + silent, "silent": silent, "role": role},
        )


def raised(settings: Settings) -> list[Alarm]:
    with transaction(settings.database()) as session:
        return alarms.raised(session, settings)


def codes(settings: Settings) -> list[str]:
    return [alarm.code for alarm in raised(settings)]


def test_listener_and_api_without_a_heartbeat_raise_alarms(settings: Settings, database_url: str) -> None:
    record(database_url, Role.DISPATCHER)
    assert codes(settings) == [], "neither has ever run"
    for role in (Role.LISTENER, Role.API):
        record(database_url, role)
    assert codes(settings) == []
    for role in (Role.LISTENER, Role.API):
        record(database_url, role, silent=31)
    assert codes(settings) == ["no_listener", "no_api"]


def test_dispatcher_that_has_just_started_raises_no_alarm_for_others(settings: Settings, database_url: str) -> None:
    record(database_url, Role.DISPATCHER, seconds=5)
    record(database_url, Role.LISTENER, silent=3600)
    assert codes(settings) == []


def test_recent_refusals_raise_an_alarm_of_their_kind(settings: Settings, database_url: str) -> None:
    record(database_url, Role.DISPATCHER)
    record(database_url, Role.LISTENER, listener(["request", "operation not supported", 1, 0.0], OLD))
    assert codes(settings) == []
    record(database_url, Role.LISTENER, listener(LIMIT, UNKNOWN, FULL, OLD))
    found = {alarm.code: alarm.detail for alarm in raised(settings)}
    assert list(found) == ["associations_exhausted", "associations_rejected", "objects_refused"]
    assert all(cause[1] in detail for cause, detail in zip((LIMIT, UNKNOWN, FULL), found.values(), strict=True))


@pytest.mark.parametrize(("level", "code"), [("near", "intake_near_limit"), ("only_urgent", "only_urgent_received")])
def test_listener_near_its_limits_raises_an_alarm(settings: Settings, database_url: str, level: str, code: str) -> None:
    record(database_url, Role.DISPATCHER)
    record(database_url, Role.LISTENER, listener() | {"intake": {"level": level, "cause": "91 % of the disk"}})
    (alarm,) = raised(settings)
    assert (alarm.code, alarm.detail[:16]) == (code, "91 % of the disk")
    for other in ("open", "closed", "level of a later release"):
        record(database_url, Role.LISTENER, listener() | {"intake": {"level": other, "cause": ""}})
        assert codes(settings) == []


def test_disk_of_another_machine_is_known_from_the_dispatcher(settings: Settings, database_url: str) -> None:
    record(database_url, Role.DISPATCHER, {"disk": {"bytes": 1000, "inodes": None}})
    assert codes(settings) == ["disk_full"]


def test_status_shows_alarms_and_refusals_as_text_and_json(settings: Settings, database_url: str) -> None:
    record(database_url, Role.DISPATCHER, {"disk": {"bytes": 1 << 40, "inodes": None}})
    record(database_url, Role.LISTENER, listener(LIMIT, FULL))
    as_text, as_json = (shown(settings, as_json=choice) for choice in (False, True))
    assert "ALARM associations_exhausted" in as_text
    assert "7 of 100 associations open" in as_text
    assert "refused 400 times from CT_1: the disk is full" in as_text
    found = json.loads(as_json)
    assert set(found["studies"].values()) == {0}, "numbers, not texts"
    assert list(found["alarm_details"]) == found["alarms"] == ["associations_exhausted", "objects_refused"]
    assert found["outcomes"] == {}
    assert found["disk"] == {"bytes": 1 << 40, "inodes": None, "used_percent": 0.0}
    assert found["listeners"][0]["refusals"][1] == {
        "kind": "object",
        "cause": "the disk is full",
        "times": 400,
        "seconds_ago": 299.0,
    }


def shown(settings: Settings, *, as_json: bool) -> str:
    console = Console(file=io.StringIO(), record=True, width=200)
    status.show(settings, console, as_json=as_json)
    return console.export_text()
