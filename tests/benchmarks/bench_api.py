"""`make bench-api SIZE=100000`: lists, filters and reports against their bare SQL, reports a second, open streams.

A server in processes of its own answers from a database of SIZE studies, with keys and the audit log as in use. Each
path is requested one after the other, in turns with the same statement through psycopg alone. Reports, with sentences,
findings, citations, checks and images as usual ones have, are then requested by CLIENTS connections at once.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import statistics
import tempfile
import time
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import httpx
import psycopg
from rich.console import Console
from rich.table import Table
from sqlalchemy.dialects import postgresql

from db.access import keys
from db.operations import overview
from db.operations.filters import Filters, Position, Sort
from db.reports import complete
from db.session import transaction
from db.settings import Settings
from deploy.embedded.postgres import Postgres
from tests.benchmarks import many_clients
from tests.benchmarks.api_server import ApiServer
from tests.benchmarks.bench_scale import FILTERS, SIZE, database
from tests.benchmarks.reports_with_grounds import add_grounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Select

#: Timed requests of a path, and studies on the page of a list.
RUNS, PAGE = int(os.environ.get("RUNS", "100")), 50
#: Pages before the deep one, of 100 studies each.
DEEP = 20
#: Processes of the API.
PROCESSES = int(os.environ.get("PROCESSES", str(min(2, os.cpu_count() or 1))))
#: Connections that read reports, and the seconds of reading.
CLIENTS, SECONDS = int(os.environ.get("CLIENTS", "16")), float(os.environ.get("SECONDS", "15"))
#: Open streams of events, as of work lists, and their seconds.
STREAMS, STREAM_SECONDS = int(os.environ.get("STREAMS", "500")), float(os.environ.get("STREAM_SECONDS", "20"))


class Asked(NamedTuple):
    """A path of the API, and the statement that it executes, with its values."""

    path: str
    sql: bytes
    values: Mapping[str, Any]


class Times(NamedTuple):
    """Median and 99th percentile over HTTP, and median of the bare SQL, in milliseconds."""

    p50: float
    p99: float
    sql: float

    @property
    def over_sql(self) -> float:
        """Difference of the medians."""
        return self.p50 - self.sql


def asked(client: httpx.Client, study: str) -> Iterator[tuple[str, Asked]]:
    """Yield what is timed, by its name: the list, a deep page of it, the list with each filter, a report."""
    yield "list", _list(Filters())
    path, start = _deep_page(client)
    yield "deep page", _list(Filters(), start)._replace(path=path)
    for name, value in FILTERS.items():
        yield f"{name}={value}", _list(Filters(**{name: value}))
    sql, values = _compiled(complete._query())
    yield "report", Asked(f"/v1/studies/{study}/report", sql, {**values, "wanted_study": study})


def _list(filters: Filters, start: Position | None = None) -> Asked:
    query = {each.name: value for each in fields(filters) if (value := getattr(filters, each.name)) is not None}
    parameters = httpx.QueryParams({name: "ROUTINE" if name == "priority" else query[name] for name in query})
    conditions = filters.conditions() + ([] if start is None else [Sort.ARRIVAL.after(start)])
    return Asked(f"/v1/studies?{parameters}", *_compiled(overview._studies(*conditions, limit=PAGE + 1)))


def _compiled(query: Select[Any]) -> tuple[bytes, Mapping[str, Any]]:
    compiled = query.compile(dialect=postgresql.psycopg.dialect(), compile_kwargs={"render_postcompile": True})
    return str(compiled).encode(), compiled.params


def _deep_page(client: httpx.Client) -> tuple[str, Position]:
    """Return the path of a page far from the newest study, and its position."""
    path = "/v1/studies?limit=100"
    for _ in range(DEEP):
        page = client.get(path).raise_for_status().json()
        path = f"/v1/studies?limit=100&after={page['next']}"
    last = page["studies"][-1]
    return path.replace("limit=100&", ""), Position(dt.datetime.fromisoformat(last["received_at"]), UUID(last["id"]))


def times(dsn: str, client: httpx.Client, one: Asked) -> Times:
    """Return the times of one path and of its statement."""
    over_http, bare = [], []
    with psycopg.connect(dsn, autocommit=True) as connection:
        # In turns: the machine's own changes meet both alike.
        for _ in range(RUNS):
            over_http.append(_milliseconds(lambda: client.get(one.path).raise_for_status()))
            bare.append(_milliseconds(lambda: connection.execute(one.sql, one.values).fetchall()))
    return Times(statistics.median(over_http), statistics.quantiles(over_http, n=100)[98], statistics.median(bare))


def _milliseconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1000


def figures(found: Mapping[str, Times], reports: tuple[float, float], stream_share: float) -> dict[str, float]:
    """Return the figures; *reports* are the reports a second and the CPU milliseconds of one."""
    filters = [one for name, one in found.items() if "=" in name]
    return {
        "list_p50_over_sql_ms": round(found["list"].over_sql, 2),
        "list_p99_ms": round(found["list"].p99, 2),
        "search_p50_over_sql_ms": round(max(one.over_sql for one in filters), 2),
        "search_p99_ms": round(max(one.p99 for one in filters), 2),
        "deep_page_vs_first": round(found["deep page"].p50 / found["list"].p50, 2),
        "report_p50_over_sql_ms": round(found["report"].over_sql, 2),
        "report_requests_per_s": round(reports[0]),
        "report_cpu_ms": round(reports[1], 2),
        "streams_share_of_a_core": round(stream_share, 3),
    }


def _reports(api: ApiServer, studies: Sequence[str]) -> tuple[float, float]:
    """Return the reports read a second, and the CPU milliseconds that the server took for one."""
    cpu, began = api.cpu_seconds(), time.monotonic()
    rate = asyncio.run(many_clients.reports_per_second(api, studies, CLIENTS, SECONDS))
    return rate, (api.cpu_seconds() - cpu) / (rate * (time.monotonic() - began)) * 1000


def _table(found: Mapping[str, Times]) -> Table:
    table = Table("request", "p50, ms", "p99, ms", "bare SQL p50, ms", "difference, ms")
    for name, one in found.items():
        table.add_row(name, f"{one.p50:.2f}", f"{one.p99:.2f}", f"{one.sql:.2f}", f"{one.over_sql:.2f}")
    return table


def main() -> None:
    """Measure, and print the table and the JSON line."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-api-") as folder,
        Postgres(Path(folder) / "postgres") as server,
        database(server, "studies", SIZE) as url,
    ):
        dsn = url.replace("+psycopg", "")
        studies = add_grounds(dsn)
        with transaction(url) as session:
            key = keys.create(session, "bench")
        settings = Settings(database_url=url, data_dir=Path(folder), api_processes=PROCESSES)
        with ApiServer(settings, key) as api:
            found = {name: times(dsn, api.client, one) for name, one in asked(api.client, studies[0])}
            reports = _reports(api, studies)
            share = asyncio.run(many_clients.stream_share(api, dsn, STREAMS, STREAM_SECONDS))
    Console(width=120).print(_table(found))
    print(json.dumps(figures(found, reports, share)))  # noqa: T201 - the last line, for programs


if __name__ == "__main__":
    main()
