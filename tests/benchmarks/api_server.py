"""A server of the API in processes of its own, for benches."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx

from api.server import serve
from tests.benchmarks.receivers import free_port

if TYPE_CHECKING:
    from db.settings import Settings

START_SECONDS = 60


class ApiServer:
    """`prelim serve` on a free port, with a *client* that holds *key*; use as a context."""

    def __init__(self, settings: Settings, key: str) -> None:
        self.port = free_port()
        changed = settings.model_copy(update={"api": settings.api.model_copy(update={"api_port": self.port})})
        self._process = multiprocessing.get_context("spawn").Process(target=serve.run, args=(changed,), daemon=True)
        self.key = key
        self.client = self.new_client()

    def new_client(self) -> httpx.Client:
        """Return another client, with connections of its own."""
        # A burst of waiting requests on two cores must not end a bench.
        return httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=START_SECONDS,
        )

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the server and its processes so far."""
        own = self._process.pid
        children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
        return sum(_cpu_seconds(pid) for pid in (own, *children))

    def __enter__(self) -> Self:
        self._process.start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.get("/v1/live").raise_for_status()
            except httpx.TransportError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._process.terminate()
        self._process.join()


def _cpu_seconds(pid: object) -> float:
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")
