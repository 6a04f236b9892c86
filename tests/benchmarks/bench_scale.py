"""`make bench-scale SIZE=1000000`: cost of each view and loop as the tables grow.

The same operations are timed on a database of SMALL studies and, in the same run, on one of SIZE studies with five
instances each, made by SQL. A view that is O(what is open) or O(1) costs the same on both. Beside the SIZE studies, two
dispatchers index FILES waiting files, and then BACKLOG times as many: their rate does not depend on what waits.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from fastapi.testclient import TestClient
from rich.console import Console
from rich.table import Table
from sqlalchemy import make_url, text

from api.app import create_app
from api.v1 import health
from db.access import keys
from db.migrations.upgrade import migrate
from db.operations import heartbeats, overview
from db.operations.filters import Sort
from db.session import engine, transaction
from db.settings import Settings
from db.studies import lifecycle, settling
from deploy.embedded.postgres import Postgres
from tests.benchmarks import open_work_lists, waiting_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Ended studies of the small database, and of the large one (SIZE).
SMALL, SIZE = 10_000, int(os.environ.get("SIZE", "100000"))
#: Runs of each operation; the first few warm up.
RUNS, WARM_UP = int(os.environ.get("RUNS", "20")), 3
#: Alternating rounds over both databases.
ROUNDS = int(os.environ.get("ROUNDS", "3"))
#: Files that wait to be indexed, and the multiple of them in a backlog.
FILES, BACKLOG = int(os.environ.get("FILES", "3000")), 10
#: Files that wait when a STAT study arrives.
STAT_BACKLOG = int(os.environ.get("STAT_BACKLOG", "100000"))
#: Open work, the same in both databases: queued jobs after an outage, and studies that are arriving.
QUEUED, RECEIVING, OPEN_ASSOCIATIONS = 500, 10_000, 20
CHUNK = 100_000

#: One statement a table: ids are derived from the number, so that rows refer to each other without reading them. Of a
#: hundred ended studies, one has each end without a report: a page of them is full in both databases.
LOAD = (
    """
    INSERT INTO studies (id, study_instance_uid, identity_number, patient_id, issuer_of_patient_id, patient_name,
        patient_birth_date, patient_sex, accession_number, study_date, study_description, calling_ae_title, modality,
        body_part, priority, state, revision, first_received_at, last_received_at, revision_started_at, settled_at,
        settle_reason, reason, detail, report_version)
    SELECT md5('s' || n)::uuid, '2.25.' || n, 1, 'P' || n % 300000, '', 'Bench^Patient', '19610203', 'F', 'A' || n,
        '20260101', 'Chest', 'CT1', (ARRAY['CT', 'DX', 'MR'])[n % 3 + 1], 'CHEST', 0, state, 1, at, at, at,
        CASE WHEN state <> 'receiving' THEN at END, CASE WHEN state <> 'receiving' THEN 'quiet for 30 s' END,
        CASE state WHEN 'failed' THEN 'unexpected' WHEN 'not_reportable' THEN 'no_images'
            WHEN 'cancelled' THEN 'operator' END, '', CASE state WHEN 'reported' THEN 1 ELSE 0 END
    FROM (
        SELECT n, now() - (:total - n) * interval '30 s' - interval '10 minutes' AS at,
            CASE WHEN n > :ended + :queued THEN 'receiving' WHEN n > :ended THEN 'settled'
                WHEN n % 100 = 0 THEN 'failed' WHEN n % 100 = 1 THEN 'not_reportable'
                WHEN n % 100 = 2 THEN 'cancelled'
                ELSE 'reported' END AS state
        FROM generate_series(:first, :last) AS n
    ) AS numbered
    """,
    """
    INSERT INTO jobs (id, study_id, revision, state, priority, fence, attempt, owner, queued_at, urgent_at,
        available_at, sent_at, claimed_at, finished_at, reason, detail)
    SELECT md5('j' || study_instance_uid)::uuid, id, 1,
        CASE state WHEN 'reported' THEN 'finished' WHEN 'settled' THEN 'queued' ELSE state END, 0, 1, 1, 'bench:1',
        settled_at, settled_at, settled_at, settled_at, CASE WHEN state <> 'settled' THEN settled_at END,
        CASE WHEN state <> 'settled' THEN settled_at + interval '9 s' END, reason, detail
    FROM studies WHERE state <> 'receiving' AND study_instance_uid IN (
        SELECT '2.25.' || n FROM generate_series(:first, :last) AS n)
    """,
    """
    INSERT INTO reports (id, study_id, job_id, version, revision, fence, findings, impression, limitations, basis,
        prompt_version, model_digest, provenance, created_at)
    SELECT md5('r' || study_instance_uid)::uuid, id, md5('j' || study_instance_uid)::uuid, 1, 1, 1,
        repeat('The lungs are clear. ', 20), 'No acute finding.', '{}', '2 of 2 images', '1', 'd', '{"text": "t"}',
        settled_at + interval '9 s'
    FROM studies WHERE state = 'reported' AND study_instance_uid IN (
        SELECT '2.25.' || n FROM generate_series(:first, :last) AS n)
    """,
    """
    INSERT INTO report_evidence (report_id, rank, case_id, similarity, excerpt)
    SELECT md5('r2.25.' || n)::uuid, rank, md5('c' || (n * 3 + rank) % 2000)::uuid, 0.9, 'Clear lungs.'
    FROM generate_series(:first, :last) AS n, generate_series(1, 2) AS rank
    WHERE EXISTS (SELECT FROM reports WHERE id = md5('r2.25.' || n)::uuid)
    """,
    """
    INSERT INTO instances (id, study_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid, series_instance_uid,
        series_number, instance_number, modality, body_part, reportable, identified, revision, file_path, file_bytes,
        sha256, association_id, calling_ae_title, called_ae_title, received_at)
    SELECT md5('i' || n || '.' || i)::uuid, md5('s' || n)::uuid, '2.25.' || n || '.' || i,
        '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1', '2.25.' || n || '.0', 1, i, 'CT', 'CHEST', true, true, 1,
        'spool/store/' || n || '.' || i, 524288, md5(n || '.' || i), 'association' || n, 'CT1', 'PRELIM', now()
    FROM generate_series(:first, :last) AS n, generate_series(1, 5) AS i
    """,
)
CASES = """
    INSERT INTO reference_cases (id, source, source_case, modality, body_part, patient_hash, study_hash, report, labels)
    SELECT md5('c' || n)::uuid, 'bench', 'c' || n, 'CT', 'CHEST', '', '', 'Clear lungs.', '{}'
    FROM generate_series(0, 1999) AS n
"""
#: Filters of the work list, each timed alone; `rare` is in no description.
FILTERS: dict[str, Any] = {
    "state": "reported",
    "modality": "CT",
    "body_part": "CHEST",
    "ae_title": "CT1",
    "study_date_from": "20260101",
    "patient_id": "P77",
    "accession_number": "A77",
    "study_instance_uid": "2.25.77",
    "description": "chest",
    "priority": 0,
    "attention": True,
    "unread": True,
}


class Operation(NamedTuple):
    """One timed operation; *run* does it once."""

    name: str
    run: Callable[[], object]
    #: Runs: operations that change something have fewer.
    runs: int = RUNS


def load(url: str, size: int) -> None:
    """Fill an empty database with *size* studies."""
    ended, total = size, size + QUEUED + RECEIVING
    numbers = {"total": total, "ended": ended, "queued": QUEUED}
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        # Triggers and foreign keys are checked by the tests, and are by far the dearest part of a large INSERT.
        connection.execute("SET session_replication_role = replica")
        connection.execute(CASES.encode())
        for first in range(1, total + 1, CHUNK):
            for statement in LOAD:
                chunk = {"first": first, "last": min(first + CHUNK - 1, total)}
                connection.execute(_filled(statement, numbers | chunk).encode())
        connection.execute("VACUUM ANALYZE")
        # Or the pages of the larger load are written beside the measurements.
        connection.execute("CHECKPOINT")


def _filled(statement: str, numbers: Mapping[str, int]) -> str:
    return re.sub(r"(?<!:):([a-z]+)", lambda found: str(numbers[found[1]]), statement)


def operations(url: str, settings: Settings, client: TestClient) -> Iterator[Operation]:
    """Yield the operations on one database."""

    def get(path: str) -> Operation:
        return Operation(f"GET {path}", lambda: _ok(client.get(path)))

    deep = _deep_page(client)
    yield get("/v1/studies")
    yield Operation("GET /v1/studies, deep page", lambda: _ok(client.get(deep)))
    for name, value in FILTERS.items():
        yield get(f"/v1/studies?{name}={'ROUTINE' if name == 'priority' else value}")
    yield get("/v1/studies?description=rare")
    for sort in Sort:
        yield get(f"/v1/studies?sort={sort}")
    for state in ("queued", "failed", "settled", "cancelled", "not_reportable", "reported", "receiving"):
        yield get(f"/v1/studies?state={state}")
    yield get("/")
    yield get("/v1/health")
    yield get("/metrics")
    yield Operation("report", lambda: _ok(client.get(f"/v1/studies/{_study(url)}/report")))
    yield Operation("status", lambda: _in(url, overview.overview))
    for name, value in (("accession", "A77"), ("UID", "2.25.77"), ("id", _study(url))):
        yield Operation(f"find by {name}", lambda value=value: _in(url, lambda session: lifecycle.find(session, value)))
    waiting = _waiting(url)
    yield Operation("forecast", lambda: _in(url, lambda session: overview.forecast(session, waiting)))
    sending = {f"2.25.{number}": 0.0 for number in range(1, OPEN_ASSOCIATIONS + 1)}
    yield Operation(
        "settle, none due", lambda: _in(url, lambda session: settling.settle_due(session, settings.study, sending))
    )


def _ok(response: Any) -> None:
    assert response.status_code in {200, 503}, response.text


def _in(url: str, query: Callable[[Any], object]) -> None:
    with transaction(url) as session:
        query(session)


def _deep_page(client: TestClient) -> str:
    path = "/v1/studies?limit=100"
    for _ in range(20):
        path = f"/v1/studies?limit=100&after={client.get(path).json()['next']}"
    return path


def _study(url: str) -> str:
    with transaction(url) as session:
        return str(session.scalar(text("SELECT id FROM studies WHERE study_instance_uid = '2.25.77'")))


def _waiting(url: str) -> Any:
    with transaction(url) as session:
        return session.scalar(text("SELECT study_id FROM jobs WHERE state = 'queued' ORDER BY urgent_at DESC LIMIT 1"))


def timed(operation: Operation) -> float:
    """Return the median of the operation's runs, in milliseconds."""
    found = []
    for _ in range(operation.runs):
        began = time.perf_counter()
        operation.run()
        found.append((time.perf_counter() - began) * 1000)
    return statistics.median(found[WARM_UP:])


@contextmanager
def database(server: Postgres, name: str, size: int) -> Iterator[str]:
    """Yield the URL of a filled database; it is dropped afterwards."""
    dsn = server.url.replace("+psycopg", "")
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute(f"CREATE DATABASE {name}".encode())
    url = make_url(server.url).set(database=name).render_as_string(hide_password=False)
    migrate(url)
    began = time.monotonic()
    load(url, size)
    Console().print(f"{size} studies loaded in {time.monotonic() - began:.0f} s")
    yield url
    engine(url).dispose()
    with psycopg.connect(dsn, autocommit=True) as plain:
        plain.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def settings_for(url: str, folder: Path) -> Settings:
    """Return settings with which nothing is due: settling must find that out without reading the studies' instances."""
    return Settings(database_url=url, data_dir=folder, settle_seconds=10**8, settle_cap_seconds=10**8)


def _trouble(url: str) -> None:
    """Make the health check read all that it can: everything is alive, jobs are claimed, and no report is written."""
    with transaction(url) as session:
        for role in ("worker", "dispatcher", "listener", "api"):
            heartbeats.record(session, heartbeats.Role(role), process=f"bench:{role}")
        session.execute(text("UPDATE jobs SET claimed_at = now() + interval '1 day' WHERE id = md5('j2.25.77')::uuid"))


def _key(url: str) -> str:
    with transaction(url) as session:
        return keys.create(session, "bench")


def measure(settings: Settings, key: str) -> dict[str, float]:
    """Return the median milliseconds of each operation on one database."""
    url = settings.database()
    # The query itself is timed, not an answer that is given again.
    health.VALID_SECONDS = 0
    _trouble(url)
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {key}"}) as client:
        return {operation.name: timed(operation) for operation in operations(url, settings, client)}


def alternating(databases: Mapping[int, tuple[Settings, str]]) -> dict[int, dict[str, float]]:
    """Return each operation's median over rounds, by size: the machine's own changes meet both sizes alike."""
    rounds = [{size: measure(*database) for size, database in databases.items()} for _ in range(ROUNDS)]
    return {
        size: {name: statistics.median(found[size][name] for found in rounds) for name in rounds[0][size]}
        for size in databases
    }


def indexing(settings: Settings) -> dict[str, float]:
    """Return the figures of two dispatchers that index waiting files."""
    waiting_files.rate(settings, FILES)  # warms up: the first files create index pages and fill caches
    one = waiting_files.rate(settings, FILES, dispatchers=1)
    usual, backlog = (waiting_files.rate(settings, files) for files in (FILES, FILES * BACKLOG))
    return {
        "index_files_per_s": round(usual),
        "two_dispatchers_vs_one": round(usual / one, 2),
        "drain_linearity": round(backlog / usual, 2),
        "stat_beside_backlog_s": round(waiting_files.stat_seconds(settings, STAT_BACKLOG), 1),
    }


def main() -> None:
    """Time every operation on both databases and print the table and the JSON line."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-scale-") as folder,
        Postgres(Path(folder) / "postgres") as server,
        ExitStack() as stack,
    ):
        urls = {size: stack.enter_context(database(server, f"studies_{size}", size)) for size in (SMALL, SIZE)}
        databases = {size: (settings_for(url, Path(folder)), _key(url)) for size, url in urls.items()}
        found = alternating(databases)
        settings, key = databases[SIZE]
        report = open_work_lists.growth(settings, key, _study(urls[SIZE]))
        beside = {"report_beside_work_lists": round(report, 2), **indexing(settings)}
    small, large = found[SMALL], found[SIZE]
    table = Table("operation", f"{SMALL} studies, ms", f"{SIZE} studies, ms", "ratio")
    for name in small:
        table.add_row(name, f"{small[name]:.2f}", f"{large[name]:.2f}", f"{large[name] / small[name]:.2f}")
    Console(width=100).print(table)
    worst = max(large[name] / small[name] for name in small)
    figures = {
        "page_growth": round(worst, 2),
        "health_ms": round(large["GET /v1/health"], 2),
        "find_ms": round(max(value for name, value in large.items() if name.startswith("find")), 2),
        **beside,
    }
    print(json.dumps(figures))  # noqa: T201 - the last line, for programs


if __name__ == "__main__":
    main()
