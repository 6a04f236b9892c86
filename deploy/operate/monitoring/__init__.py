"""Observe an installation: the trace of a study, rules for alerts, dashboards."""
