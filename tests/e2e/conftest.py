"""The whole of Prelim, running as `prelim up` runs it, on free ports and in a folder of its own."""

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

from deploy.embedded.server_process import free_port
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PRELIM = str(Path(sys.executable).parent / "prelim")
#: Starting torch on two busy cores takes most of it.
START_SECONDS = 150


@dataclass
class House:
    """A running installation, and how a user reaches it."""

    environment: dict[str, str]
    log: Path

    @property
    def data_dir(self) -> Path:
        return Path(self.environment["PRELIM_DATA_DIR"])

    def prelim(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a prelim command beside it."""
        return subprocess.run(
            [PRELIM, *arguments], env=self.environment, check=check, capture_output=True, text=True, timeout=120
        )

    def status(self) -> dict[str, Any]:
        return json.loads(self.prelim("status", "--json").stdout)

    def api(self) -> httpx.Client:
        """The API, with the key that `prelim up` made."""
        key = (self.data_dir / "secrets" / "api-key").read_text().strip()
        address = f"http://127.0.0.1:{self.environment['PRELIM_API_PORT']}"
        return httpx.Client(base_url=address, headers={"Authorization": f"Bearer {key}"}, timeout=30)

    def wait_for_reports(self, seconds: float = 90) -> None:
        """Until every study has come to its end."""
        pending = ("receiving", "settled", "queued", "running")

        def ended() -> bool:
            counts = self.status()["studies"]
            return sum(counts.values()) > 0 and not any(counts[state] for state in pending)

        wait_until(ended, seconds)


def environment_in(folder: Path, **changes: str) -> dict[str, str]:
    """This environment with settings for a house in *folder*, and none of the shell's."""
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
            # The checkpoint is random: it writes for no other.
            "PRELIM_DEMO_AE_TITLES": "PRELIM",
            # One core a process: torch would start a thread per core in each.
            "OMP_NUM_THREADS": "1",
        }
        | changes
    )


@contextmanager
def running_house(folder: Path, **changes: str) -> Iterator[House]:
    house = House(environment_in(folder, **changes), folder / "up.log")
    house.prelim("checkpoint", "random", str(house.data_dir / "checkpoint"))
    with house.log.open("w") as log:
        up = subprocess.Popen([PRELIM, "up"], env=house.environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: "everything is ready" in house.log.read_text() or up.poll() is not None, START_SECONDS)
            assert up.poll() is None, house.log.read_text()
            yield house
        finally:
            up.terminate()
            up.wait(timeout=120)
    assert up.returncode == 0, house.log.read_text()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """An installation that the tests of one file share."""
    with running_house(tmp_path_factory.mktemp("house")) as running:
        yield running
