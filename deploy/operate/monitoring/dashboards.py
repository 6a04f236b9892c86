"""Make the Grafana dashboard of an installation: panels as a table of titles, units and queries."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

#: Version of the dashboard's form that Grafana 10 and later read without a change.
SCHEMA_VERSION = 39
#: Columns of Grafana's grid, and panels in a row.
COLUMNS, IN_A_ROW = 24, 3
HEIGHT = 8


class Panel(NamedTuple):
    """A graph: title, Grafana's unit, and queries by legend."""

    title: str
    unit: str
    queries: dict[str, str]


def _quantile(share: float, step: str) -> str:
    """Return the query of a quantile of one step of reports, by priority."""
    buckets = f'prelim_report_duration_seconds_bucket{{step="{step}"}}'
    return f"histogram_quantile({share}, max by (priority, le) (increase({buckets}[30m])))"


ENDED = "increase(prelim_jobs_ended_total[1h])"

PANELS = (
    Panel("Alarms", "short", {"{{code}}": "max by (code) (prelim_alarm) > 0"}),
    Panel("Studies by state", "short", {"{{state}}": "max by (state) (prelim_studies)"}),
    Panel("Processes", "short", {"{{role}}": "max by (role) (prelim_processes_alive)"}),
    Panel("First image to report, 95 %", "s", {"{{priority}}": _quantile(0.95, "total")}),
    Panel("Settling, 95 %", "s", {"{{priority}}": _quantile(0.95, "settle")}),
    Panel("Waiting for a worker, 95 %", "s", {"{{priority}}": _quantile(0.95, "wait")}),
    Panel("Writing, 95 %", "s", {"{{priority}}": _quantile(0.95, "write")}),
    Panel(
        "Ended jobs an hour",
        "short",
        {"{{kind}} {{state}}": f"max by (kind, state) ({ENDED})"},
    ),
    Panel("Ends of the last hour by reason", "short", {"{{reason}}": "max by (reason) (prelim_ended_last_hour)"}),
    Panel("Queue", "short", {"jobs": "max(prelim_queued_jobs)"}),
    Panel("Oldest waiting job", "s", {"age": "max(prelim_oldest_waiting_seconds)"}),
    Panel("Quarantine", "short", {"{{reason}}": "max by (reason) (prelim_quarantined)"}),
    Panel("Received objects a second", "short", {"objects": "max(rate(prelim_objects_indexed_total[5m]))"}),
    Panel("Received bytes a second", "Bps", {"bytes": "max(rate(prelim_object_bytes_total[5m]))"}),
    Panel(
        # `increase` would not show the first ones of a cause, whose series begins with them.
        "Refusals since the start of the listener",
        "short",
        {"{{kind}}: {{cause}}": "max by (kind, cause) (prelim_refusals_total)"},
    ),
    Panel(
        "Associations",
        "short",
        {
            "{{listener}}": "max by (listener) (prelim_associations_open)",
            "limit of {{listener}}": "max by (listener) (prelim_associations_limit)",
        },
    ),
    Panel(
        "Disk of the spool",
        "bytes",
        {"free": "min(prelim_disk_free_bytes)", "refused below": "max(prelim_disk_reserved_bytes)"},
    ),
    Panel("Intake (2: urgent only, 3: none)", "short", {"{{listener}}": "max by (listener) (prelim_intake_level)"}),
    Panel("Last canary", "s", {"age": "max(prelim_canary_age_seconds)"}),
    Panel("Audit log not sent for", "s", {"oldest row": "max(prelim_audit_waiting_seconds)"}),
    Panel("Certificate", "s", {"remaining": "min(prelim_certificate_remaining_seconds)"}),
    Panel(
        "Requests in the engine",
        "short",
        {
            "running": "max(prelim_engines_running)",
            "waiting": "max(prelim_engines_queued)",
            "slots": "max(prelim_engines_rows)",
        },
    ),
    Panel("Tokens a second", "short", {"{{worker}}": "max by (worker) (prelim_engine_tokens_per_second)"}),
    Panel(
        "KV cache",
        "percentunit",
        {
            "{{worker}}": "max by (worker) (prelim_engine_kv_tokens_used) / max by (worker) (prelim_engine_kv_tokens)",
        },
    ),
    Panel("Redis does not work for", "short", {"processes": "max(prelim_broker_outages)"}),
    Panel("Releases", "short", {"{{release}} {{role}}": "max by (release, role) (prelim_build_info)"}),
)


#: Choice of the Prometheus that Grafana reads.
SOURCE = {"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}


def dashboard() -> dict[str, Any]:
    """Return the dashboard in Grafana's JSON model."""
    return {
        "uid": "prelim",
        "title": "Prelim",
        "tags": ["prelim"],
        "timezone": "",
        "schemaVersion": SCHEMA_VERSION,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Data source", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    width = COLUMNS // IN_A_ROW
    row, column = divmod(number, IN_A_ROW)
    targets = [
        {"refId": chr(ord("A") + place), "datasource": source, "expr": expression, "legendFormat": legend}
        for place, (legend, expression) in enumerate(panel.queries.items())
    ]
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"h": HEIGHT, "w": width, "x": column * width, "y": row * HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def dashboard_text() -> str:
    """Return the file for Grafana."""
    return json.dumps(dashboard(), indent=1) + "\n"
