"""From C-STORE to the page through all real processes."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis
from PIL import Image

from db.jobs.celery_app import QUEUE
from db.reports.versions import BANNER
from tests.conftest import missing
from tests.polling import wait_until
from worker.phantoms.datasets import write_demo_studies

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.e2e.conftest import System

SUSPENDED = {"dispatcher": b"dispatch", "worker": b"worker", "api": b"serve", "flower": b"flower"}
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def reported(system: System, tmp_path_factory: pytest.TempPathFactory) -> System:
    """System that has reported two studies sent by DCMTK, an independent SCU."""
    # A virtual environment on PATH may have pynetdicom's storescu, which is not independent.
    ours = Path(sys.executable).parent
    dcmtk = shutil.which("storescu", path=os.pathsep.join(p for p in os.get_exec_path() if Path(p) != ours))
    if dcmtk is None:
        missing("storescu (Debian package dcmtk)")
    folder = tmp_path_factory.mktemp("studies")
    write_demo_studies(folder, count=2, seed=1)
    port, title = system.environment["PRELIM_DICOM_PORT"], "PRELIM"
    storescu = [dcmtk, "-aec", title, "-xs", "+sd", "+r", "127.0.0.1", port, str(folder), "+sp", "*.dcm"]
    subprocess.run(storescu, check=True, capture_output=True, timeout=60)
    system.wait_for_reports(2)
    return system


@pytest.fixture
def api(reported: System) -> Iterator[httpx.Client]:
    with reported.api() as client:
        yield client


def test_every_sent_study_has_a_report(reported: System) -> None:
    counts = reported.status()["studies"]

    assert counts["reported"] == 2
    assert sum(counts.values()) == 2


def test_api_returns_the_report_with_banner_and_basis(api: httpx.Client) -> None:
    study = api.get("/v1/studies").json()["studies"][0]
    report = api.get(f"/v1/studies/{study['id']}/report").json()

    assert report["banner"] == BANNER
    assert report["findings"] or report["impression"]
    assert report["basis"]
    assert len(report["model_digest"]) == 64


def test_api_returns_the_images_given_to_the_model(api: httpx.Client) -> None:
    study = api.get("/v1/studies").json()["studies"][0]
    image = api.get(f"/v1/studies/{study['id']}/report/images/1")

    assert image.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(image.content)).mode == "L"


def test_api_requires_a_key(reported: System) -> None:
    with reported.api() as api:
        del api.headers["Authorization"]
        assert api.get("/v1/studies").status_code == 401
        assert api.get("/v1/health").status_code == 200


def test_status_lists_live_processes(reported: System) -> None:
    status = reported.status()

    assert status["workers_alive"] == 1
    assert {"dispatcher", "worker"} <= set(status["processes"])
    assert status["last_error"] is None


@pytest.mark.slow
def test_suspended_process_is_neither_ready_nor_live(reported: System) -> None:
    """The listener is not among them: its status file is old only after 15 s."""
    roles = ("listener", *SUSPENDED)
    assert [role for role in roles if not is_good(reported, "live", role) or not is_good(reported, "ready", role)] == []
    pids = [pid for role, command in SUSPENDED.items() for pid in pids_of(reported, command) or [pytest.fail(role)]]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        assert [role for role in SUSPENDED if is_good(reported, "live", role) or is_good(reported, "ready", role)] == []
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: all(is_good(reported, "ready", role) for role in roles), 45)


def is_good(system: System, question: str, role: str) -> bool:
    return system.prelim(question, role, check=False).returncode == 0


def pids_of(system: System, command: bytes) -> list[int]:
    """Return the processes of the system with this word in their command line."""
    here = f"PRELIM_DATA_DIR={system.data_dir}".encode()
    return [
        int(process.name)
        for process in Path("/proc").glob("[0-9]*")
        if command in (read(process / "cmdline").split(b"\0")) and here in read(process / "environ").split(b"\0")
    ]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def test_flower_requires_a_password_and_shows_only_job_ids(reported: System) -> None:
    import httpx

    password = (reported.data_dir / "secrets" / "flower-password").read_text().strip()
    address = f"http://127.0.0.1:{reported.environment['PRELIM_FLOWER_PORT']}/api/tasks"

    assert httpx.get(address).status_code == 401
    tasks = httpx.get(address, auth=("prelim", password)).json()
    assert tasks
    for task in tasks.values():
        (argument,) = json.loads(task["args"].replace("'", '"').replace(",)", "]").replace("(", "["))
        assert uuid.UUID(argument)
        assert task["kwargs"] == "{}"
        assert task["result"] in (None, "None")


def test_redis_holds_no_patient_data(reported: System) -> None:
    url = json.loads((reported.data_dir / "run" / "services.json").read_text())["broker_url"]
    with redis.Redis.from_url(url) as client:
        everything = b"".join(client.dump(key) or b"" for key in client.scan_iter())
        assert client.llen(QUEUE) == 0

    assert b"PHANTOM" not in everything


def test_logs_hold_no_patient_data(reported: System) -> None:
    assert "PHANTOM" not in reported.log.read_text()


def test_resent_files_make_no_new_work(reported: System, tmp_path: Path) -> None:
    write_demo_studies(tmp_path, count=2, seed=1)
    reported.prelim("send", str(tmp_path))
    slots = reported.data_dir / "spool" / "slots"
    wait_until(lambda: not list(slots.glob("*/inbox/*.dcm")))

    counts = reported.status()["studies"]
    assert (counts["reported"], sum(counts.values())) == (2, 2)


def test_audit_passes(reported: System) -> None:
    assert reported.prelim("audit", check=False).returncode == 0
