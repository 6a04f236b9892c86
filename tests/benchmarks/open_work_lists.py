"""Reads of a report beside open work lists, which load themselves again and again, on a server of its own."""

from __future__ import annotations

import os
import statistics
import threading
import time
from typing import TYPE_CHECKING

from tests.benchmarks.api_server import ApiServer

if TYPE_CHECKING:
    import httpx

    from db.settings import Settings

#: Pages that are open, and the seconds between two loads of one (api/page/static/refresh.js).
PAGES, REFRESH_SECONDS = 20, 5.0
#: Reads of a report for one median, and the pause between two of them.
READS, PAUSE_SECONDS = int(os.environ.get("READS", "150")), 0.07


def growth(settings: Settings, key: str, study: str) -> float:
    """Return the median time of a read beside PAGES open work lists, as a multiple of the time without."""
    with ApiServer(settings, key) as api:
        _median(api.client, study)  # warms up
        alone = _median(api.client, study)
        return _beside_pages(api, study) / alone


def _beside_pages(api: ApiServer, study: str) -> float:
    stop = threading.Event()
    pages = [threading.Thread(target=_page, args=(api, number, stop)) for number in range(PAGES)]
    for page in pages:
        page.start()
    try:
        return _median(api.client, study)
    finally:
        stop.set()
        for page in pages:
            page.join()


def _page(api: ApiServer, number: int, stop: threading.Event) -> None:
    """Load the work list every REFRESH_SECONDS; pages were opened at different times."""
    with api.new_client() as client:
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
