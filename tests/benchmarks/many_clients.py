"""Many clients of an API at once: readers of reports, and open streams of events."""

from __future__ import annotations

import asyncio
import time
from itertools import cycle
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from tests.benchmarks.api_server import ApiServer

#: Seconds of requests that are not counted: connections and caches are new.
WARM_UP_SECONDS = 1.0


async def reports_per_second(api: ApiServer, studies: Sequence[str], clients: int, seconds: float) -> float:
    """Return the reports that *clients* connections read in a second."""
    paths = cycle(f"/v1/studies/{study}/report" for study in studies)
    began = time.monotonic() + WARM_UP_SECONDS
    counts = await asyncio.gather(*(_reads(api, paths, began, began + seconds) for _ in range(clients)))
    return sum(counts) / seconds


async def _reads(api: ApiServer, paths: Iterator[str], began: float, end: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    count = 0
    while (now := time.monotonic()) < end:
        writer.write(_request(api, next(paths)))
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        count += now >= began
    writer.close()
    return count


def _request(api: ApiServer, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {api.key}\r\n\r\n".encode()


async def stream_share(api: ApiServer, dsn: str, streams: int, seconds: float) -> float:
    """Return the share of a core that *streams* open streams cost the server, with one event a second.

    Raises RuntimeError unless each stream gets the events.
    """
    idle = await _cpu_share(api, seconds / 2)
    opened = [await _opened(api) for _ in range(streams)]
    received = [asyncio.create_task(_events(reader)) for reader, _ in opened]
    happening = asyncio.create_task(_one_event_a_second(dsn))
    share = await _cpu_share(api, seconds)
    if happening.done():
        happening.result()
    happening.cancel()
    for _, writer in opened:
        writer.close()
    counts = await asyncio.gather(*received)
    if min(counts) < seconds / 2:
        raise RuntimeError(f"a stream got {min(counts)} events in {seconds:.0f} s")
    return share - idle


async def _cpu_share(api: ApiServer, seconds: float) -> float:
    before, began = api.cpu_seconds(), time.monotonic()
    await asyncio.sleep(seconds)
    return (api.cpu_seconds() - before) / (time.monotonic() - began)


async def _opened(api: ApiServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
    writer.write(_request(api, "/v1/events"))
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(head.decode())
    return reader, writer


async def _events(reader: asyncio.StreamReader) -> int:
    """Count the events of a stream until it is closed."""
    return len([line async for line in _lines(reader) if line.startswith(b"event:")])


async def _lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    try:
        while line := await reader.readline():
            yield line
    except ConnectionError:
        return


async def _one_event_a_second(dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        states = cycle((("held", "bench"), ("receiving", None)))
        while True:
            await connection.execute(
                "UPDATE studies SET state = %s, reason = %s WHERE id = ("
                "SELECT id FROM studies WHERE state IN ('receiving', 'held') ORDER BY id LIMIT 1)",
                next(states),
            )
            await asyncio.sleep(1)
