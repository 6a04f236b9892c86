"""The images, built by podman and run with the restrictions of docker-compose.yml (`make test-containers`).

PostgreSQL and Redis are the embedded ones, on the loopback address that all containers share: the images of others are
not pulled. BASE, PIP_OPTIONS and TORCH_OPTIONS are the arguments of the Dockerfile; WHEELS_DIR is a folder to mount as
/wheels while the images are built.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Any

import httpx
import psycopg
import pytest
import yaml

from deploy.embedded.server_process import free_port
from tests.conftest import REPOSITORY
from tests.polling import wait_until
from tests.services import database_named, execute
from worker.phantoms.datasets import write_demo_studies

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.embedded.postgres import Postgres

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
CHECKPOINT = REPOSITORY / "deploy" / "demo" / "checkpoint"
DEFAULT_BASE = re.findall("^ARG BASE=(.*)$", (REPOSITORY / "deploy/docker/Dockerfile").read_text(), re.MULTILINE)[0]
#: Without the base image, which a site may choose.
MAX_CORE_BYTES = 300_000_000
#: Limit of a worker with the demo model and torch.
WORKER_MEMORY = "2g"
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")


def podman(*arguments: str, check: bool = True) -> str:
    ran = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0 or not check, ran.stdout[-2000:] + ran.stderr[-2000:]
    return ran.stdout.strip()


def build(target: str) -> str:
    """Build an image and return its name."""
    name = f"localhost/prelim-{target}:test"
    wheels = os.environ.get("WHEELS_DIR")
    mounted = ["--volume", f"{wheels}:/wheels:ro"] if wheels else []
    given = [
        f"--build-arg={key}={os.environ[key]}" for key in ("BASE", "PIP_OPTIONS", "TORCH_OPTIONS") if key in os.environ
    ]
    podman(
        *("build", "--isolation", "chroot", "--network", "host", *LIMITS, *mounted, *given, "--target", target),
        *("--tag", name, "--file", "deploy/docker/Dockerfile", str(REPOSITORY)),
    )
    return name


@pytest.fixture(scope="module")
def core() -> str:
    assert shutil.which("podman"), "podman is needed"
    return build("core")


@pytest.fixture(scope="module")
def worker(core: str) -> str:
    assert core
    return build("worker-cpu")


class Containers:
    """Containers of one installation, with the restrictions of their services in the compose file."""

    def __init__(self, folder: Path, database_url: str, broker_url: str) -> None:
        self.name = f"prelim-test-{uuid.uuid4().hex[:8]}"
        self.started: list[str] = []
        self.dicom_port, self.api_port = free_port(), free_port()
        self.secrets = folder / "secrets"
        self.secrets.mkdir()
        for setting, value in (("database_url", database_url), ("broker_url", broker_url)):
            (self.secrets / f"prelim_{setting}").write_text(value)
        self.environment = {
            "PRELIM_DATA_DIR": "/var/lib/prelim",
            "PRELIM_DICOM_PORT": str(self.dicom_port),
            "PRELIM_API_PORT": str(self.api_port),
            "PRELIM_SETTLE_SECONDS": "1",
            "PRELIM_LEASE_SECONDS": "5",
            "PRELIM_CHECKPOINT": "/checkpoint",
            "PRELIM_DEVICE": "cpu",
            "PRELIM_DTYPE": "float32",
        }
        podman("volume", "create", self.name)

    def options(self, service: str, memory: str) -> list[str]:
        """Return the options of `podman run` for a service."""
        of = COMPOSE[service]
        assert of["read_only"]
        return [
            *("--read-only", "--tmpfs", "/tmp", "--init", "--network", "host", *LIMITS),
            *(f"--cap-drop={each}" for each in of["cap_drop"]),
            *(f"--security-opt={each.replace(':true', '')}" for each in of["security_opt"]),
            *("--user", of["user"], "--memory", memory, "--memory-swap", memory, "--pids-limit", str(of["pids_limit"])),
            *("--volume", f"{self.name}:/var/lib/prelim", "--volume", f"{CHECKPOINT}:/checkpoint:ro"),
            *("--volume", f"{self.secrets}:/run/secrets:ro"),
            *(f"--env={name}={value}" for name, value in self.environment.items()),
        ]

    def start(self, service: str, image: str, memory: str = "1g") -> str:
        name = f"{self.name}-{service}"
        podman("run", "--detach", "--name", name, *self.options(service, memory), image, *COMPOSE[service]["command"])
        self.started.append(name)
        return name

    def run(self, image: str, *command: str) -> str:
        return podman("run", "--rm", *self.options("api", "1g"), image, *command)

    def wait_until_ready(self, service: str, seconds: float = 120) -> None:
        name = f"{self.name}-{service}"
        ready = ["podman", "exec", name, "prelim", "ready", service]
        wait_until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, seconds)

    def remove(self) -> None:
        for name in self.started:
            podman("rm", "--force", "--time", "5", name, check=False)
        podman("volume", "rm", "--force", self.name, check=False)


@pytest.fixture
def database_url(postgres: Postgres) -> str:
    """An empty database, which the image migrates."""
    name = f"containers_{uuid.uuid4().hex}"
    execute(postgres, f"CREATE DATABASE {name}")
    return database_named(postgres, name)


@pytest.fixture
def containers(tmp_path: Path, database_url: str, broker_url: str) -> Iterator[Containers]:
    made = Containers(tmp_path, database_url, broker_url)
    yield made
    made.remove()


def bytes_of(image: str) -> int:
    return int(podman("image", "inspect", image, "--format", "{{.Size}}"))


def test_core_is_small_and_has_no_model(core: str) -> None:
    command = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('faiss'))"

    assert podman("run", "--rm", "--network", "none", *LIMITS, core, "python3", "-c", command) == "None None"
    assert bytes_of(core) - bytes_of(os.environ.get("BASE", DEFAULT_BASE)) < MAX_CORE_BYTES


def test_study_becomes_a_report_that_the_api_returns(
    containers: Containers, core: str, worker: str, database_url: str, tmp_path: Path
) -> None:
    containers.run(core, "prelim", "migrate")
    (key,) = re.findall(r"prelim_\S+", containers.run(core, "prelim", "key", "create", "test"))
    for service in ("listener", "dispatcher", "api"):
        containers.start(service, core)
    first = containers.start("worker", worker, WORKER_MEMORY)
    for service in ("listener", "dispatcher", "api", "worker"):
        containers.wait_until_ready(service, 300)
    assert_restricted(first)

    send(containers, tmp_path / "one", count=1)
    wait_until(lambda: states(database_url) == {"reported": 1}, 180)
    with httpx.Client(
        base_url=f"http://127.0.0.1:{containers.api_port}", headers={"Authorization": f"Bearer {key}"}
    ) as api:
        (study,) = api.get("/v1/studies").json()["studies"]
        assert api.get(f"/v1/studies/{study['id']}/report").json()["impression"]


def assert_restricted(name: str) -> None:
    found: dict[str, Any] = json.loads(podman("inspect", name))[0]
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert not found["EffectiveCaps"]
    assert found["Config"]["User"] == "10001:10001"


def send(containers: Containers, folder: Path, *, count: int) -> None:
    write_demo_studies(folder, count=count, seed=count)
    environment = os.environ | {"PRELIM_DICOM_PORT": str(containers.dicom_port)}
    command = [sys.executable, "-m", "deploy.cli.entry", "send", "--called", "PRELIM_DEMO", str(folder)]
    subprocess.run(command, env=environment, cwd=REPOSITORY, check=True, capture_output=True)


def states(url: str) -> dict[str, int]:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return dict(connection.execute("SELECT state, count(*) FROM studies GROUP BY state").fetchall())
