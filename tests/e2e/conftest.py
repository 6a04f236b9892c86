"""A complete installation, run by `prelim up` on free ports in its own folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.embedded.server_process import free_port
from tests.polling import wait_until
from worker.model.checkpoint.random_weights import write_random_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PRELIM = str(Path(sys.executable).parent / "prelim")
#: Starting torch on two busy cores takes most of it.
START_SECONDS = 150


@dataclass
class System:
    """A running installation and its interfaces."""

    environment: dict[str, str]
    log: Path

    @property
    def data_dir(self) -> Path:
        return Path(self.environment["PRELIM_DATA_DIR"])

    def prelim(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a prelim command in its environment."""
        return subprocess.run(
            [PRELIM, *arguments], env=self.environment, check=check, capture_output=True, text=True, timeout=120
        )

    def status(self) -> dict[str, Any]:
        return json.loads(self.prelim("status", "--json").stdout)

    def api(self) -> httpx.Client:
        """Return a client of the API with the key that `prelim up` created."""
        key = (self.data_dir / "secrets" / "api-key").read_text().strip()
        address = f"http://127.0.0.1:{self.environment['PRELIM_API_PORT']}"
        return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def wait_for_studies(self, holds: Callable[[dict[str, int]], bool], seconds: float = 90) -> None:
        """Wait until *holds* is true of the number of studies by state.

        It is read from the metrics, by one client: a command for each poll would take a core.
        """
        with self.api() as api:
            wait_until(lambda: bool(counts := self._counts(api)) and holds(counts), seconds)

    def _counts(self, api: httpx.Client) -> dict[str, int]:
        """Return the number of studies by state; nothing while the database is too busy to answer."""
        families = text_string_to_metric_families(api.get("/metrics").text)
        samples = (sample for family in families if family.name == "prelim_studies" for sample in family.samples)
        return {sample.labels["state"]: int(sample.value) for sample in samples}

    def wait_for_reports(self, studies: int, seconds: float = 90) -> None:
        """Wait until this number of studies has arrived and each has ended."""
        pending = ("receiving", "settled", "queued", "running")

        def ended(counts: dict[str, int]) -> bool:
            return sum(counts.values()) == studies and not any(counts[state] for state in pending)

        self.wait_for_studies(ended, seconds)


def environment_in(folder: Path, **changes: str) -> dict[str, str]:
    """Return this environment with settings for a system in *folder* and without the shell's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRELIM_")}
    return (
        kept
        | {
            "PRELIM_DATA_DIR": str(folder / "data"),
            "PRELIM_DICOM_PORT": str(free_port()),
            "PRELIM_API_PORT": str(free_port()),
            "PRELIM_FLOWER_PORT": str(free_port()),
            "PRELIM_SETTLE_SECONDS": "1",
            "PRELIM_MAX_NEW_TOKENS": "24",
            # It would take a slot of the worker beside the studies of a test.
            "PRELIM_CANARY_SECONDS": "0",
            # The random checkpoint reports only for these titles.
            "PRELIM_DEMO_AE_TITLES": "PRELIM",
            # One core a process: torch would start a thread per core in each.
            "OMP_NUM_THREADS": "1",
        }
        | changes
    )


@contextmanager
def running_system(folder: Path, **changes: str) -> Iterator[System]:
    system = System(environment_in(folder, **changes), folder / "up.log")
    # By the function of `prelim checkpoint random`: torch is imported here already.
    write_random_checkpoint(system.data_dir / "checkpoint")
    with system.log.open("w") as log:
        up = subprocess.Popen([PRELIM, "up"], env=system.environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: "everything is ready" in system.log.read_text() or up.poll() is not None, START_SECONDS)
            assert up.poll() is None, system.log.read_text()
            yield system
        finally:
            up.terminate()
            up.wait(timeout=120)
    assert up.returncode == 0, system.log.read_text()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Installation shared by the tests of one file."""
    with running_system(tmp_path_factory.mktemp("system")) as running:
        yield running
