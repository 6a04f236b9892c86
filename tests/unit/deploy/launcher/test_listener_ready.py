"""The readiness of the listener, from its status files."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from db.settings import Settings
from deploy.launcher.listener_ready import data_dir, is_ready

HERE = f"{socket.gethostname()}:7"


def write(folder: Path, slot: str, *, age: float = 0, **values: Any) -> None:
    """Write the status of a process of this machine, *age* seconds old."""
    path = folder / "spool" / "slots" / slot / "listener.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"process": HERE, "parent": None} | values))
    os.utime(path, (time.time() - age, time.time() - age))


def test_single_process_is_ready_while_its_status_is_fresh(tmp_path: Path) -> None:
    assert not is_ready(tmp_path), "it has never run"
    write(tmp_path, "host-0")
    assert is_ready(tmp_path)
    write(tmp_path, "host-0", age=60)
    assert not is_ready(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"process": "elsewhere:7"},
        {"draining": True},
    ],
    ids=["of another host", "replaced"],
)
def test_process_that_receives_no_connection_of_this_machine_is_not_ready(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    write(tmp_path, "host-0", **values)
    assert not is_ready(tmp_path)


def test_one_of_several_processes_suffices(tmp_path: Path) -> None:
    parent = {"process": HERE}
    write(tmp_path, "host-0", parent=parent, age=60)
    write(tmp_path, "host-1", parent=parent)
    assert is_ready(tmp_path)


def test_data_directory_is_that_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PRELIM_DATA_DIR", raising=False)
    assert data_dir() == Settings().operations.data_dir
    monkeypatch.setenv("PRELIM_DATA_DIR", "/data")
    assert data_dir() == Path("/data")
