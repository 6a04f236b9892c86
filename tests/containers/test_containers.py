"""The images, built by podman and run with the restrictions of docker-compose.yml (`make test-containers`).

PostgreSQL and Redis are the embedded ones, on the loopback address that all containers share: the images of others are
not pulled. BASE, PIP_OPTIONS and TORCH_OPTIONS are the arguments of the Dockerfile; WHEELS_DIR is a folder to mount as
/wheels while the images are built.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.containers.engine import COMPOSE, LIMITS, Containers, podman
from tests.containers.objects import store_without_study, write_compressed
from tests.containers.studies import jobs, send, states
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]
DEFAULT_BASE = re.findall("^ARG BASE=(.*)$", (REPOSITORY / "deploy/docker/Dockerfile").read_text(), re.MULTILINE)[0]
#: Without the base image, which a site may choose; one like the slim images of Python has less than 130 MB.
MAX_CORE_BYTES = 220_000_000
#: Limits of `prelim ready`, which the engine runs every ten seconds.
MAX_CHECK_SECONDS, MAX_CHECK_KIB = 0.05, 20 << 10
#: Refused objects of an association, and lines of the log for them: its first refusals and its end.
REFUSED, MAX_LINES = 200, 25
#: Prints how many refused objects the listener has counted.
COUNTED = """
import json, pathlib
found = [json.loads(path.read_text()) for path in pathlib.Path("/var/lib/prelim/spool/slots").glob("*/listener.json")]
print(max(row[2] for status in found for row in status["refused"] or [["", "", 0]]))
"""
#: Allocates memory until the kernel ends the largest process of the container, which is the worker.
FILL_MEMORY = """
import os, time
for _ in range(40):
    if os.fork() == 0:
        held = bytearray(64 << 20)
        for at in range(0, len(held), 4096):
            held[at] = 1
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
#: Prints the transfer syntaxes whose file is decoded as it was before the compression.
DECODE = """
import pathlib, pydicom
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from worker.images.stored_frame import message_of
for path in sorted(pathlib.Path("/files").glob("*.dcm")):
    if b"".join(bytes([level]) for level in (7, 7, 7, 7)) in message_of(path, 0):
        print(path.stem)
AESGCM(bytes(32)).encrypt(bytes(12), b"a", None)
print("encrypted")
"""
#: Runs a check and prints its CPU seconds and its KiB of memory.
MEASURE = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""


def bytes_of(image: str) -> int:
    return int(podman("image", "inspect", image, "--format", "{{.Size}}"))


def test_core_is_small_and_has_no_model(core: str) -> None:
    command = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('faiss'))"

    assert podman("run", "--rm", "--network", "none", *LIMITS, core, "python3", "-c", command) == "None None"
    assert bytes_of(core) - bytes_of(os.environ.get("BASE", DEFAULT_BASE)) < MAX_CORE_BYTES


def test_study_becomes_a_report_that_the_api_returns(
    installation: Containers, core: str, database_url: str, tmp_path: Path
) -> None:
    (key,) = re.findall(r"prelim_\S+", installation.run(core, "prelim", "key", "create", "test"))
    for name in installation.started:
        assert_restricted(name)

    send(installation, tmp_path / "one", count=1)
    wait_until(lambda: states(database_url) == {"reported": 1}, 180)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{installation.api_port}", headers={"Authorization": f"Bearer {key}"}
    ) as api:
        (study,) = api.get("/v1/studies").json()["studies"]
        assert api.get(f"/v1/studies/{study['id']}/report").json()["impression"]


def test_worker_ended_by_its_memory_limit_loses_no_job(
    installation: Containers, database_url: str, tmp_path: Path
) -> None:
    """The engine starts the container again, and the jobs that it had begun are begun again."""
    worker = f"{installation.name}-worker"
    send(installation, tmp_path / "many", count=16)
    wait_until(lambda: jobs(database_url, "state = 'running'") > 0, 120)

    podman("exec", worker, "python3", "-c", FILL_MEMORY, check=False)

    wait_until(lambda: jobs(database_url, "attempt > 1") > 0, 300)
    wait_until(lambda: states(database_url) == {"reported": 16}, 300)
    assert exit_statuses(worker) == ["137"]


def test_refused_objects_are_counted_and_not_logged_one_by_one(containers: Containers, core: str) -> None:
    listener = containers.start("listener", core)
    containers.wait_until_ready("listener")
    before = len(lines_of(listener))

    store_without_study(containers.dicom_port, REFUSED)

    wait_until(lambda: podman("exec", listener, "python3", "-c", COUNTED) == str(REFUSED), 180)
    wait_until(lambda: "association.released" in lines_of(listener)[-1], 180)
    assert len(lines_of(listener)) - before <= MAX_LINES


def test_volume_of_another_user_is_named_with_its_owner_and_the_remedy(containers: Containers, core: str) -> None:
    volume = f"{containers.name}:/var/lib/prelim"
    podman("run", "--rm", "--user", "0", *LIMITS, "--volume", volume, core, "chown", "1234:1234", "/var/lib/prelim")

    for service in ("listener", "dispatcher", "api", "canary"):
        ran = containers.attempt(core, *COMPOSE[service]["command"])
        assert (ran.returncode, ran.stderr.count("\n")) == (2, 1), ran.stderr
        assert "/var/lib/prelim belongs to user 1234, this command runs as user 10001" in ran.stderr
        assert "`chown -R 10001 /var/lib/prelim`" in ran.stderr


def test_limits_of_a_container_set_threads_processes_and_slots(core: str, worker: str) -> None:
    """A machine may have many more processors; this one has two, the container one of them."""
    limited = ("run", "--rm", "--network", "none", *LIMITS, "--cpus", "1", "--memory", "2g")
    report = "from db import container_limits as c; c.limit_threads()"
    processes = "from dicom_listener.receive.prefork import parent; from db.environment import load_settings as s"
    found = "print(parent.processes(s()), s().queue.worker_slots)"

    assert podman(*limited, core, "python3", "-c", f"{report}; {processes}; {found}") == "1 1"
    assert podman(*limited, worker, "python3", "-c", f"{report}; import torch; print(torch.get_num_threads())") == "1"


def test_core_decodes_frames_and_encrypts(core: str, tmp_path: Path) -> None:
    """The libraries without their symbols work, those that the API starts for a frame included."""
    files = tmp_path / "files"
    files.mkdir()  # as other users may read it
    write_compressed(files)

    mounted = ("--volume", f"{files}:/files:ro")
    ran = podman("run", "--rm", "--network", "none", *LIMITS, *mounted, core, "python3", "-c", DECODE)

    assert ran.split() == [
        "1.2.840.10008.1.2.4.50",
        "1.2.840.10008.1.2.4.70",
        "1.2.840.10008.1.2.4.80",
        "1.2.840.10008.1.2.4.90",
        "1.2.840.10008.1.2.5",
        "encrypted",
    ]


def test_health_check_costs_little(installation: Containers) -> None:
    for service in ("listener", "dispatcher", "api", "worker"):
        command = ("python3", "-c", MEASURE, "prelim", "ready", service)
        found = [podman("exec", f"{installation.name}-{service}", *command).split() for _ in range(5)]

        # Other programs of the machine lengthen some.
        assert min(float(seconds) for seconds, _ in found) <= MAX_CHECK_SECONDS, f"{service}: {found}"
        assert min(int(memory) for _, memory in found) <= MAX_CHECK_KIB, f"{service}: {found}"


def assert_restricted(name: str) -> None:
    found: dict[str, Any] = json.loads(podman("inspect", name))[0]
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert not found["EffectiveCaps"]
    assert found["Config"]["User"] == "10001:10001"


def exit_statuses(name: str) -> list[str]:
    """Return the status of each end of a container."""
    ended = ("--filter", f"container={name}", "--filter", "event=died", "--format", "{{.ContainerExitCode}}")
    return podman("events", "--stream=false", "--since", "1h", *ended).split()


def lines_of(name: str) -> list[str]:
    ran = subprocess.run(["podman", "logs", name], capture_output=True, text=True, check=True)
    return (ran.stdout + ran.stderr).splitlines()
