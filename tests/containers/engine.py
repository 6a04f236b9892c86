"""Build images by podman, and run them with the restrictions of docker-compose.yml."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from typing import TYPE_CHECKING

import yaml

from deploy.embedded.server_process import free_port
from tests.conftest import REPOSITORY
from tests.polling import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    Ended = subprocess.CompletedProcess[str]

COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
CHECKPOINT = REPOSITORY / "deploy" / "demo" / "checkpoint"
LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096")


def podman(*arguments: str, check: bool = True) -> str:
    # The engine writes a file into its folder when the kernel ends a container at its memory limit.
    folder = tempfile.gettempdir()
    ran = subprocess.run(["podman", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0 or not check, ran.stdout[-2000:] + ran.stderr[-2000:]
    return ran.stdout.strip()


def build(target: str, extra: str = "") -> str:
    """Build an image, with an extra of pyproject.toml, and return its name."""
    name = f"localhost/prelim-{target}{extra and '-'}{extra}:test"
    wheels = os.environ.get("WHEELS_DIR")
    mounted = ["--volume", f"{wheels}:/wheels:ro"] if wheels else []
    given = [
        f"--build-arg={key}={os.environ[key]}" for key in ("BASE", "PIP_OPTIONS", "TORCH_OPTIONS") if key in os.environ
    ]
    if extra:
        given.append(f"--build-arg=EXTRA={extra}")
    podman(
        *("build", "--isolation", "chroot", "--network", "host", *LIMITS, *mounted, *given, "--target", target),
        *("--tag", name, "--file", str(REPOSITORY / "deploy/docker/Dockerfile"), str(REPOSITORY)),
    )
    return name


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
            # A control group of version 1 gives a container as much as one process of the machine.
            *("--cpu-shares", "8192"),
            *("--volume", f"{self.name}:/var/lib/prelim", "--volume", f"{CHECKPOINT}:/checkpoint:ro"),
            *("--volume", f"{self.secrets}:/run/secrets:ro"),
            *(f"--env={name}={value}" for name, value in self.environment.items()),
        ]

    def start(self, service: str, image: str, memory: str = "1g", *extra: str) -> str:
        name = f"{self.name}-{service}"
        restart = f"--restart={COMPOSE[service]['restart']}"
        options = [*self.options(service, memory), restart, *extra]
        podman("run", "--detach", "--name", name, *options, image, *COMPOSE[service]["command"])
        self.started.append(name)
        return name

    def run(self, image: str, *command: str) -> str:
        return podman("run", "--rm", *self.options("api", "1g"), image, *command)

    def attempt(self, image: str, *command: str, environment: dict[str, str] | None = None) -> Ended:
        """Run a command that may fail, with more variables."""
        more = [f"--env={name}={value}" for name, value in (environment or {}).items()]
        ran = ["podman", "run", "--rm", *self.options("api", "2g"), *more, image, *command]
        return subprocess.run(ran, capture_output=True, text=True, check=False)

    def wait_until_ready(self, service: str, seconds: float = 120) -> None:
        name = f"{self.name}-{service}"
        ready = ["podman", "exec", name, "prelim", "ready", service]
        wait_until(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0, seconds)

    def remove(self) -> None:
        for name in self.started:
            podman("rm", "--force", "--time", "5", name, check=False)
        for name in (self.name, f"{self.name}-backups", f"{self.name}-scratch"):
            podman("volume", "rm", "--force", name, check=False)
