"""Every alert fires on its fault, stays silent otherwise, and has an entry in the runbook."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import yaml

from db.operations import alarms
from tests.conftest import REPOSITORY
from tests.exported_metrics import LABELS
from tests.unit.deploy.monitoring.promtool import FOLDER, metrics_of, promtool

if TYPE_CHECKING:
    from pathlib import Path

RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule}
FINISHED = 'prelim_jobs_ended_total{kind="report", state="finished"}'
FAILED = 'prelim_jobs_ended_total{kind="report", state="failed"}'
OBJECTS = "prelim_objects_indexed_total"
FREE, RESERVED = "prelim_disk_free_bytes", "prelim_disk_reserved_bytes"
AGE, INTERVAL = "prelim_canary_age_seconds", "prelim_canary_interval_seconds"
REFUSED = 'prelim_refusal_age_seconds{kind="object", cause="disk"}'


class Case(NamedTuple):
    """Series, one sample a minute; the time of the evaluation; the labels of the alert beside its severity."""

    series: dict[str, str]
    at: str
    labels: dict[str, str]


def total(priority: str, up_to: str, within: str, all_: str) -> dict[str, str]:
    """Return the series of reports up to a bound and of all, of two APIs that return the same."""
    labels = f'step="total", priority="{priority}"'
    name = "prelim_report_duration_seconds"
    return {
        f'{name}_{kind}{{{labels}{bound}, instance="{api}"}}': values
        for api in "ab"
        for kind, bound, values in (("bucket", f', le="{up_to}"', within), ("count", "", all_))
    }


#: A fault, and beside it the nearest situation that is none.
CASES: dict[str, tuple[Case, Case]] = {
    "Watchdog": (Case({}, "1m", {}), Case({}, "1m", {})),
    "PrelimMetricsAbsent": (
        Case({"up": "0x10"}, "5m", {}),
        Case({'prelim_queued_jobs{instance="b"}': "0x10"}, "5m", {}),
    ),
    "PrelimAlarm": (
        Case({'prelim_alarm{code="disk_full"}': "0 1x20"}, "10m", {"code": "disk_full"}),
        Case({'prelim_alarm{code="disk_full"}': "0x20"}, "10m", {}),
    ),
    "PrelimAlarmTicket": (
        Case({'prelim_alarm{code="quarantined"}': "0 1x20"}, "10m", {"code": "quarantined"}),
        Case({'prelim_alarm{code="disk_full"}': "0 1x20"}, "10m", {}),
    ),
    # One in two; one failure of one job at night.
    "PrelimReportsFailFast": (
        Case({FAILED: "0+1x90", FINISHED: "0+1x90"}, "80m", {}),
        Case({FAILED: "0x75 1x15", FINISHED: "0x90"}, "80m", {}),
    ),
    # One in ten; one in a hundred.
    "PrelimReportsFailSlow": (
        Case({FAILED: "0+1x400", FINISHED: "0+9x400"}, "380m", {}),
        Case({FAILED: "0+1x400", FINISHED: "0+99x400"}, "380m", {}),
    ),
    # One in fifty; one in five hundred.
    "PrelimReportsFailTrend": (
        Case({FAILED: "0+1x4400", FINISHED: "0+49x4400"}, "4380m", {}),
        Case({FAILED: "0+1x4400", FINISHED: "0+499x4400"}, "4380m", {}),
    ),
    # Half are late; none of two a minute, and one of one in an hour.
    "PrelimStatLate": (
        Case(total("stat", "300.0", "0+1x90", "0+2x90"), "80m", {}),
        Case(total("stat", "300.0", "0x90", "0x60 1x30"), "80m", {}),
    ),
    "PrelimRoutineLate": (
        Case(total("routine", "3600.0", "0+1x400", "0+2x400"), "380m", {}),
        Case(
            total("routine", "3600.0", "0+9x400", "0+10x400") | total("low", "3600.0", "0x400", "0+2x400"), "380m", {}
        ),
    ),
    "PrelimWaitsLong": (
        Case({"prelim_oldest_waiting_seconds": "0+300x30"}, "20m", {}),
        Case({"prelim_oldest_waiting_seconds": "1700x30"}, "20m", {}),
    ),
    # The first ones since the start of the listener, which is then started again; the last ones were half an hour ago.
    "PrelimObjectsRefused": (
        Case({REFUSED: "_x20 5+60x2 _x20"}, "35m", {"cause": "disk"}),
        Case({REFUSED: "_x20 5+60x40"}, "55m", {}),
    ),
    # It grows; a report ends it.
    "PrelimCanaryMissed": (
        Case({AGE: "1000+60x30", INTERVAL: "600x30"}, "20m", {}),
        Case({AGE: "1000+60x7 0x30", INTERVAL: "600x40"}, "20m", {}),
    ),
    # Away for a quarter of an hour; a restart of the repository.
    "PrelimAuditUnsent": (
        Case({'prelim_alarm{code="audit_syslog"}': "0 1x20"}, "15m", {}),
        Case({'prelim_alarm{code="audit_syslog"}': "0 1x5 0x20"}, "15m", {}),
    ),
    # The same of the collector.
    "PrelimTracesUnsent": (
        Case({'prelim_alarm{code="traces_waiting"}': "0 1x20"}, "15m", {}),
        Case({'prelim_alarm{code="traces_waiting"}': "0 1x5 0x20"}, "15m", {}),
    ),
    # A span of each batch; all are accepted, after some that were rejected on another day.
    "PrelimTraceSpansRejected": (
        Case({"prelim_trace_spans_rejected_total": "7+1x40"}, "30m", {}),
        Case({"prelim_trace_spans_rejected_total": "7x40"}, "30m", {}),
    ),
    # A week of 50 objects a minute, then none; the same without traffic a week ago.
    "PrelimNothingReceived": (
        Case({OBJECTS: "0+50x10080 504000x200"}, "10270m", {}),
        Case({OBJECTS: "5x10300"}, "10270m", {}),
    ),
    # 1 GB a minute of 500 GB; a full but quiet disk's free space stays.
    "PrelimDiskFills": (
        Case({FREE: "500000000000-1000000000x450", RESERVED: "536870912x450"}, "440m", {}),
        Case({FREE: "700000000x450", RESERVED: "536870912x450"}, "440m", {}),
    ),
    "PrelimCertificateEnds": (
        Case({"prelim_certificate_remaining_seconds": "2000000-60x90"}, "80m", {}),
        Case({"prelim_certificate_remaining_seconds": "3000000-60x90"}, "80m", {}),
    ),
    # Again after two minutes; one worker that ended itself and was started again.
    "PrelimEngineStalled": (
        Case({"prelim_engines_stalled": "0x20 1x2 0x2 1x2"}, "30m", {}),
        Case({"prelim_engines_stalled": "0x20 1x1 0x10"}, "25m", {}),
    ),
    "PrelimBrokerOutage": (
        Case({"prelim_broker_outages": "0x2 1x20"}, "10m", {}),
        Case({"prelim_broker_outages": "0x3 1x3 0x20"}, "10m", {}),
    ),
    "PrelimReleasesDiffer": (
        Case({f'prelim_build_info{{release="{each}", role="worker"}}': "1x90" for each in ("1", "2")}, "80m", {}),
        Case({f'prelim_build_info{{release="1", role="{each}"}}': "1x90" for each in ("worker", "api")}, "80m", {}),
    ),
}


#: Labels of series that are exported for some of their processes only.
OF_PROCESSES = {"worker", "process", "listener"}


@pytest.mark.parametrize("alert", ALERTS)
def test_no_alert_reads_series_that_are_cut_at_a_number_of_processes(alert: str) -> None:
    read = metrics_of(ALERTS[alert]["expr"])

    assert read <= LABELS.keys()
    assert {name: LABELS[name] & OF_PROCESSES for name in read if LABELS.get(name, set()) & OF_PROCESSES} == {}


def test_every_alarm_has_exactly_one_alert() -> None:
    """A new one is a page until it is listed."""
    fragments = [re.findall(r'prelim_alarm\{code(=~|!~|=)"([a-z_|]+)"\}', rule["expr"]) for rule in ALERTS.values()]
    found: list[str] = []
    for operator, text in [each for fragment in fragments for each in fragment]:
        named = set(text.split("|"))
        assert named <= set(alarms.CODES)
        found += [code for code in alarms.CODES if (code in named) == (operator != "!~")]

    # The last canary has an age of its own.
    assert sorted(found) == sorted(set(alarms.CODES) - {"canary_missed"})


#: Further faults of an alert.
OTHERS = [("PrelimRoutineLate", Case(total("high", "3600.0", "0+1x400", "0+2x400"), "380m", {}))]
#: Cases over hours are evaluated rarely: all rules in every minute of a week take a minute of CPU time.
LONG = {name for name, (fault, _) in CASES.items() if int(fault.at[:-1]) > 90}
EVALUATED = {"5m": [name for name in CASES if name not in LONG], "1h": sorted(LONG)}


def document(alert: str, case: Case, *, fires: bool) -> dict[str, Any]:
    """Return a test in the form of promtool."""
    rule = ALERTS[alert]
    expected = {"exp_labels": rule["labels"] | case.labels, "exp_annotations": rule["annotations"]}
    return {
        "name": f"{alert} {'fires' if fires else 'is silent'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [
            {"alertname": alert, "eval_time": case.at, "exp_alerts": [expected] if fires else []},
        ],
    }


def test_rules_and_configuration_are_valid() -> None:
    promtool("check", "rules", "alerts.yml", folder=FOLDER)
    promtool("check", "config", "prometheus.yml", folder=FOLDER)


def test_every_alert_has_a_case() -> None:
    assert list(CASES) == list(ALERTS)


@pytest.mark.parametrize(("evaluated", "names"), EVALUATED.items())
def test_every_alert_fires_on_its_fault_and_is_silent_otherwise(
    evaluated: str, names: list[str], tmp_path: Path
) -> None:
    tests = [document(alert, CASES[alert][0], fires=True) for alert in names]
    tests += [document(alert, case, fires=True) for alert, case in OTHERS if alert in names]
    # The one alert that is never silent.
    tests += [document(alert, CASES[alert][1], fires=False) for alert in names if alert != "Watchdog"]
    cases = {"rule_files": [str(FOLDER / "alerts.yml")], "evaluation_interval": evaluated, "tests": tests}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(cases))

    promtool("test", "rules", "tests.yml", folder=tmp_path)


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_has_a_severity_and_an_entry_in_the_runbook(alert: str) -> None:
    path, _, anchor = ALERTS[alert]["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.*)$", (REPOSITORY / path).read_text(), re.MULTILINE)

    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert ALERTS[alert]["labels"]["severity"] in {"page", "ticket", "none"}
