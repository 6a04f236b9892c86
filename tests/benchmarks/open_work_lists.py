"""Reads of a report beside open work lists, which load themselves again and again, on a server of its own."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import threading
import time
from typing import TYPE_CHECKING

import httpx

from api.server import serve
from tests.benchmarks.receivers import free_port

if TYPE_CHECKING:
    from db.settings import Settings

#: Pages that are open, and the seconds between two loads of one (api/page/static/refresh.js).
PAGES, REFRESH_SECONDS = 20, 5.0
#: Reads of a report for one median, and the pause between two of them.
READS, PAUSE_SECONDS = int(os.environ.get("READS", "150")), 0.07
START_SECONDS = 60


def growth(settings: Settings, key: str, study: str) -> float:
    """Return the median time of a read beside PAGES open work lists, as a multiple of the time without."""
    port = free_port()
    changed = settings.model_copy(update={"api": settings.api.model_copy(update={"api_port": port})})
    server = multiprocessing.get_context("spawn").Process(target=serve.run, args=(changed,), daemon=True)
    server.start()
    try:
        with _client(port, key) as client:
            _wait(client)
            _median(client, study)  # warms up
            alone = _median(client, study)
            return _beside_pages(port, key, study) / alone
    finally:
        server.terminate()
        server.join()


def _beside_pages(port: int, key: str, study: str) -> float:
    stop = threading.Event()
    pages = [threading.Thread(target=_page, args=(port, key, number, stop)) for number in range(PAGES)]
    for page in pages:
        page.start()
    try:
        with _client(port, key) as client:
            return _median(client, study)
    finally:
        stop.set()
        for page in pages:
            page.join()


def _page(port: int, key: str, number: int, stop: threading.Event) -> None:
    """Load the work list every REFRESH_SECONDS; pages were opened at different times."""
    with _client(port, key) as client:
        pause = REFRESH_SECONDS * number / PAGES
        while not stop.wait(pause):
            client.get("/").raise_for_status()
            pause = REFRESH_SECONDS


def _median(client: httpx.Client, study: str) -> float:
    found = []
    for _ in range(READS):
        began = time.perf_counter()
        client.get(f"/v1/studies/{study}/report").raise_for_status()
        found.append(time.perf_counter() - began)
        time.sleep(PAUSE_SECONDS)
    return statistics.median(found)


def _client(port: int, key: str) -> httpx.Client:
    # A burst of waiting requests on two cores must not end the bench.
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {key}"}, timeout=START_SECONDS
    )


def _wait(client: httpx.Client) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.get("/v1/live").raise_for_status()
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return
