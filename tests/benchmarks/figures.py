"""The figures that the benches print as JSON: their meaning, their aims, and the table of the latest ones."""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any, NamedTuple

#: One JSON object a line, appended by `make record-NAME`: bench, date, commit, machine, figures.
RECORDS = Path(__file__).parents[2] / "docs" / "measurements" / "benches.jsonl"


class Figure(NamedTuple):
    """Meaning of a figure, and its aim as a bound: ">= 0.5" or "<= 10"; empty: no aim."""

    meaning: str
    aim: str = ""


FIGURES: dict[str, dict[str, Figure]] = {
    "ingest": {
        "ct_1_vs_storescp": Figure("CT study, 1 association: rate as a multiple of storescp's", ">= 0.5"),
        "ct_4_vs_storescp": Figure("CT study, 4 associations: of storescp's", ">= 0.75"),
        "small_4_vs_storescp": Figure("small objects, 4 associations: of storescp's", ">= 0.75"),
        "small_4_vs_storescp_fork": Figure("small objects, 4 associations: of storescp's with `--fork`"),
        "ct_1_vs_orthanc": Figure("CT study, 1 association: of Orthanc's", ">= 1.8"),
        "ct_4_vs_orthanc": Figure("CT study, 4 associations: of Orthanc's", ">= 1.8"),
        "small_4_vs_orthanc": Figure("small objects, 4 associations: of Orthanc's", ">= 1.5"),
        "small_4_vs_pynetdicom": Figure("small objects, 4 associations: of pynetdicom's application"),
        "small_4_vs_prelim_1": Figure("small objects, 4 associations: two processes, of one process"),
        "cpu_ms_small_4": Figure("small objects, 4 associations: CPU milliseconds an object", "<= 0.4"),
        "c_echo_per_s": Figure("C-ECHOs a second in one association", ">= 5000"),
        "associations_per_s": Figure("associations a second, one after the other", ">= 400"),
    },
    "queue": {
        "overhead_p50_ms": Figure("from a committed job to the engine, idle: median milliseconds", "<= 10"),
        "overhead_p99_ms": Figure("the same, 99th percentile", "<= 50"),
        "drain_vs_celery": Figure("jobs drained a second, as a multiple of plain Celery's", ">= 0.5"),
        "drain_vs_skip_locked": Figure("the same, of a bare SKIP LOCKED loop's"),
    },
    "scale": {
        "page_growth": Figure("worst ratio of an operation's median: on SIZE studies to on 10,000", "<= 1.5"),
        "health_ms": Figure(
            "a fresh answer of `/v1/health` on SIZE studies, in a backlog: median milliseconds", "<= 5"
        ),
        "find_ms": Figure("finding a study by UID, id or accession number, the slowest: median milliseconds"),
        "report_beside_work_lists": Figure(
            "reading a report beside 20 open work lists: median as a multiple of that without", "<= 2"
        ),
        "index_files_per_s": Figure("files that two dispatchers index a second, beside SIZE studies", ">= 1000"),
        "two_dispatchers_vs_one": Figure("the same, of that with one dispatcher", ">= 1"),
        "drain_linearity": Figure("the same with 30,000 files waiting, of that with 3,000", ">= 0.9"),
        "stat_beside_backlog_s": Figure(
            "a STAT study beside 100,000 waiting files: seconds from its last object to its job, beyond its quiet time",
            "<= 5",
        ),
    },
    "api": {
        "list_p50_over_sql_ms": Figure("a page of the work list of SIZE studies: median beyond its bare SQL's", "<= 5"),
        "list_p99_ms": Figure("the same: 99th percentile, milliseconds"),
        "search_p50_over_sql_ms": Figure("the work list with one filter, the slowest: median beyond its SQL's", "<= 5"),
        "search_p99_ms": Figure("the same: 99th percentile, milliseconds"),
        "deep_page_vs_first": Figure(
            "the page behind 2,000 studies: median as a multiple of the first page's", "<= 1.2"
        ),
        "report_p50_over_sql_ms": Figure("a report by the id of its study: median beyond its bare SQL's", "<= 5"),
        "report_requests_per_s": Figure("reports read a second by 16 clients, each with its audit row", ">= 300"),
        "report_cpu_ms": Figure("the same: CPU milliseconds of the server for one"),
        "streams_share_of_a_core": Figure("500 open streams with one event a second: share of a core", "<= 0.1"),
    },
    "images": {
        "vs_decode_all": Figure("600-slice CT to 8 images, native: times faster than decoding every slice", ">= 10"),
        "vs_decode_all_rle": Figure("the same, RLE", ">= 10"),
        "vs_draw_all": Figure("the same, native: times faster than rendering every slice"),
        "vs_headers_plus_chosen": Figure("the same: time as a multiple of pydicom's for headers, 8 slices", "<= 1.5"),
        "dx_vs_bare": Figure("3000 x 2500 DX: time as a multiple of pydicom's decode and LUT", "<= 1.3"),
    },
    "engine": {
        "vs_sequential": Figure("times faster than one `generate` after another", ">= 3"),
        "vs_static_batch": Figure("times faster than left-padded batches of 8", ">= 1.4"),
        "overhead_vs_forward": Figure("an engine step longer than a bare `forward`, as a fraction", "<= 0.15"),
        "end_to_end": Figure("of the rate that the parts' own times allow", ">= 0.85"),
    },
    "index": {
        "recall_at_10": Figure("recall of the ten nearest of 100,000 cases with 768 dimensions", ">= 0.999"),
        "query_vs_faiss": Figure("a search with exclusions: time as a multiple of bare FAISS's", "<= 1.5"),
        "load_seconds": Figure("verifying the digests and mapping it into memory: seconds", "<= 1"),
    },
    "grounding": {
        "chest_vs_ungrounded": Figure(
            "report of a chest with grounds: CPU time as a multiple of that without", "<= 1.3"
        ),
        "ct_vs_ungrounded": Figure("the same of a head CT of eight slices"),
    },
    "gpu": {
        "roofline_batch1": Figure("decode, batch of 1: fraction of the roofline"),
        "roofline_batch32": Figure("decode, batch of 32: fraction of the roofline"),
        "studies_per_minute": Figure("studies reported a minute"),
    },
}


def latest_records() -> dict[str, dict[str, Any]]:
    """Return the last record of each bench."""
    records = [json.loads(line) for line in RECORDS.read_text().splitlines()]
    return {record["bench"]: record for record in records}


def figures_table() -> str:
    """Return the latest figures of every bench, as Markdown tables."""
    latest = latest_records()
    return "\n\n".join(_table(bench, latest.get(bench)) for bench in FIGURES)


def _table(bench: str, record: dict[str, Any] | None) -> str:
    if record is None:
        return f"**`make bench-{bench}`**: not measured yet."
    title = f"**`make bench-{bench}`**, {record['date']}, commit {record['commit']}, {record['machine']}."
    rows = [
        _row(figure, record["figures"][name]) for name, figure in FIGURES[bench].items() if name in record["figures"]
    ]
    return "\n".join([title, "", "| Figure | Measured | Aim | Met |", "| --- | --- | --- | --- |", *rows])


def _row(figure: Figure, value: float) -> str:
    met = "" if not figure.aim else "yes" if _is_met(figure.aim, value) else "**no**"
    return f"| {figure.meaning} | {value:g} | {figure.aim} | {met} |"


def _is_met(aim: str, value: float) -> bool:
    relation, bound = aim.split()
    return {">=": operator.ge, "<=": operator.le}[relation](value, float(bound))
