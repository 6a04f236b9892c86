"""Metrics that the API exports, with their labels: all that Prometheus may store."""

from __future__ import annotations

from api.v1 import metrics

#: None is free text, a name of a patient or of a study.
LABELS: dict[str, set[str]] = {
    "prelim_alarm": {"code"},
    "prelim_associations_limit": {"listener"},
    "prelim_associations_open": {"listener"},
    "prelim_intake_level": {"listener"},
    "prelim_broker_outage_seconds": {"process"},
    "prelim_build_info": {"release", "role"},
    "prelim_ended_last_hour": {"reason"},
    "prelim_jobs_ended": {"kind", "state"},
    "prelim_processes_alive": {"role"},
    "prelim_quarantined": {"reason"},
    "prelim_refusals": {"kind", "cause"},
    "prelim_refusal_age_seconds": {"kind", "cause"},
    "prelim_report_duration_seconds": {"step", "priority", "le"},
    "prelim_report_seconds": {"step", "quantile"},
    "prelim_studies": {"state"},
    **{f"prelim_engine_{name}": {"worker"} for name in metrics.ENGINE},
    "prelim_audit_rows_waiting": set(),
    "prelim_audit_waiting_seconds": set(),
    "prelim_broker_outages": set(),
    "prelim_canary_age_seconds": set(),
    "prelim_canary_interval_seconds": set(),
    "prelim_certificate_remaining_seconds": set(),
    "prelim_disk_free_bytes": set(),
    "prelim_engines_stalled": set(),
    **{f"prelim_engines_{name}": set() for name in metrics.SUMS},
    "prelim_disk_free_inodes": set(),
    "prelim_disk_reserved_bytes": set(),
    "prelim_disk_reserved_inodes": set(),
    "prelim_object_bytes": set(),
    "prelim_objects_indexed": set(),
    "prelim_oldest_waiting_seconds": set(),
    "prelim_queued_jobs": set(),
    "prelim_trace_spans_rejected": set(),
    "prelim_traces_sent": set(),
    "prelim_traces_skipped": set(),
    "prelim_traces_waiting": set(),
    "prelim_traces_waiting_seconds": set(),
}
