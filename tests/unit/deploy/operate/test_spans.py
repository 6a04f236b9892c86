"""Spans of an ended job: their times are those of its row, and what is not stored is not drawn."""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

from db.jobs.trace_queue import EndedJob
from deploy.operate.traces.spans import STEPS, of_job

REPOSITORY = Path(__file__).parents[4]
START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    return START + dt.timedelta(seconds=seconds)


def job(**changes: Any) -> EndedJob:
    values = {
        "id": uuid.UUID(int=1),
        "study_id": uuid.UUID(int=2),
        "kind": "report",
        "revision": 1,
        "state": "finished",
        "reason": None,
        "priority": 2,
        "attempt": 1,
        "fence": 1,
        "owner": "host:1",
        "queued_at": at(30),
        "claimed_at": at(31),
        "finished_at": at(40),
        "arrived_at": at(0),
        "settled_at": at(30),
        "version": 1,
        "model_digest": "a",
        "seconds": None,
    }
    return EndedJob(**(values | changes))


def times(found: EndedJob) -> dict[str, tuple[float, float]]:
    return {
        span.name: ((span.begins - START).total_seconds(), (span.ends - START).total_seconds())
        for span in of_job(found)
    }


def test_steps_have_the_times_of_the_row() -> None:
    assert times(job()) == {"report": (0, 40), "settle": (0, 30), "wait": (30, 31), "write": (31, 40)}


def test_revision_whose_arrival_is_unknown_begins_when_it_was_queued() -> None:
    assert times(job(arrived_at=None, settled_at=None)) == {"report": (30, 40), "wait": (30, 31), "write": (31, 40)}


def test_job_without_a_claim_of_its_own_has_waited_only() -> None:
    for claimed in (None, at(29)):
        assert list(times(job(claimed_at=claimed, state="cancelled"))) == ["report", "settle", "wait"]


def test_steps_of_the_worker_lie_end_to_end_within_its_time() -> None:
    seconds = {"generation": 5.0, "headers": 1.0, "render": 2.0, "prompt": 3.0, "generation_queue": 0.5, "unknown": 1.0}
    found = times(job(seconds=seconds))

    assert {name: found[name] for name in list(found)[4:]} == {
        "headers": (31, 32),
        "render": (32, 34),
        "prompt": (34, 37),
        "generation": (37, 40),
    }
    assert of_job(job(seconds=seconds))[-1].attributes == {"prelim.queue_seconds": 0.5}


def test_every_step_that_a_worker_stores_has_its_place() -> None:
    sources = (path.read_text() for path in (REPOSITORY / "worker").rglob("*.py"))
    stored = {name for source in sources for name in re.findall(r'steps\.ended\("(\w+)"\)', source)}

    assert stored == set(STEPS)


def test_ids_are_repeated_by_the_same_end_of_a_job_only() -> None:
    first, again, later = of_job(job()), of_job(job()), of_job(job(finished_at=at(41)))

    assert first == again
    assert {span.id for span in first}.isdisjoint(span.id for span in later)
    assert len({span.id for span in first}) == len(first)
    assert {span.trace for span in first + later} == {2}


#: Makes the packages of the extra look uninstalled.
WITHOUT_EXTRA = "import sys; sys.modules.update(dict.fromkeys(['opentelemetry.exporter', 'opentelemetry.sdk']))\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_sender_without_the_extra_names_the_command_that_installs_it() -> None:
    ran = run(
        WITHOUT_EXTRA + "from db.settings import Settings; from deploy.operate.traces import sender\n"
        "sender.run(Settings(traces_url='http://127.0.0.1:1'))"
    )

    assert re.search(r"ConfigurationError: PRELIM_TRACES_URL is set, and opentelemetry\S* is not installed", ran.stderr)
    assert "pip install 'prelim[otel]'" in ran.stderr


def test_exporter_is_imported_by_its_process_only() -> None:
    """Of the SDK, redis imports a part wherever it is installed."""
    ran = run(
        "import api.app, deploy.cli.app, deploy.operate.doctor.doctor, dicom_listener.dispatch, sys\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.exporter', 'google.protobuf'))])"
    )

    assert ran.stdout.strip() == "[]", ran.stderr
