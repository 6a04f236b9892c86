"""The services of the profiles `audit`, `traces` and `gpu`, in containers (`make test-containers`)."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from deploy.operate.doctor.finding import Level
from tests.containers.engine import COMPOSE
from tests.containers.studies import send, states
from tests.integration.deploy.operate.audit_log.repository import AuditRepository
from tests.integration.deploy.operate.traces.fake_collector import FakeCollector
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.containers.engine import Containers, Ended

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]


def test_report_has_its_trace_at_the_collector(
    installation: Containers, core_with_traces: str, database_url: str, tmp_path: Path
) -> None:
    with FakeCollector() as collector:
        installation.start("trace-sender", core_with_traces, "1g", f"--env=PRELIM_TRACES_URL={collector.url}")
        installation.wait_until_ready("trace-sender")
        # After its first look: jobs that end later are sent.
        doctor = ("prelim", "doctor", "--json")
        given = {"PRELIM_TRACES_URL": collector.url}
        wait_until(
            lambda: (
                finding_of(installation.attempt(core_with_traces, *doctor, environment=given), "traces")["level"]
                == Level.OK
            ),
            60,
        )

        send(installation, tmp_path / "one", count=1)

        wait_until(lambda: states(database_url) == {"reported": 1}, 180)
        wait_until(lambda: any("report" in names for names in collector.names()), 120)


def test_image_without_the_extra_names_it(containers: Containers, core: str) -> None:
    ran = containers.attempt(core, "prelim", "send-traces", environment={"PRELIM_TRACES_URL": "http://127.0.0.1:4318"})

    assert ran.returncode == 2
    assert "or build the image with EXTRA=otel" in ran.stderr


def test_audit_log_arrives_at_the_repository(containers: Containers, core: str, tmp_path: Path) -> None:
    containers.run(core, "prelim", "migrate")
    (key,) = re.findall(r"prelim_\S+", containers.run(core, "prelim", "key", "create", "test"))
    with AuditRepository(tmp_path) as repository:
        authority = COMPOSE["audit-sender"]["environment"]["PRELIM_AUDIT_SYSLOG_CA"]
        containers.start("api", core)
        mounted = f"--volume={repository.certificate}:{authority}:ro"
        address = f"--env=PRELIM_AUDIT_SYSLOG_URL=syslog+tls://127.0.0.1:{repository.port}"
        containers.start("audit-sender", core, "1g", mounted, address, f"--env=PRELIM_AUDIT_SYSLOG_CA={authority}")
        for service in ("api", "audit-sender"):
            containers.wait_until_ready(service)

        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"http://127.0.0.1:{containers.api_port}/v1/studies", headers=headers).status_code == 200

        wait_until(lambda: any(b"/v1/studies" in body for body in repository.received), 120)


def test_worker_of_the_gpu_profile_does_not_start_without_a_driver_and_doctor_names_it(
    containers: Containers, core: str, worker: str
) -> None:
    containers.run(core, "prelim", "migrate")
    device = {"PRELIM_DEVICE": COMPOSE["worker-gpu"]["environment"]["PRELIM_DEVICE"]}

    finding = finding_of(containers.attempt(worker, "prelim", "doctor", "--json", environment=device), "gpu")
    assert (finding["level"], finding["found"]) == (Level.FAULT, "there is no NVIDIA driver here")
    assert "Container Toolkit" in finding["do"]
    ran = containers.attempt(worker, "prelim", "work", environment=device)
    assert ran.returncode == 2
    assert "0 CUDA devices found" in ran.stdout + ran.stderr


def finding_of(ran: Ended, name: str) -> dict[str, Any]:
    """Return a finding of `prelim doctor --json`."""
    (found,) = [each for each in json.loads(ran.stdout)["checks"] if each["name"] == name]
    return dict(found)
