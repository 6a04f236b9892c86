"""schemathesis, with every check, finds no answer that the OpenAPI document does not describe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import uvicorn
from pydantic import SecretStr

from api.server import serve
from db.access import keys
from db.access.principals import SCOPES
from db.reports import holds
from db.session import transaction
from db.settings import Settings
from tests.benchmarks.receivers import free_port
from tests.conftest import missing
from tests.integration.api.v1.test_frames import PIXELS, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.api.arrivals import Arrivals

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

HOOKS = Path(__file__).with_name("schemathesis_hooks.py")
OTHER = {"patient_name": "Roe^Rita", "patient_id": "P-18", "patient_birth_date": "19330303"}
#: 503 while an alarm is raised, as for the held study of this test.
HEALTH = "GET /v1/health"
FRAME = "GET /v1/studies/{study_id}/instances/{instance_id}/frames/{frame}"
#: 412 is the answer to an If-Match of the report as it was before an earlier test case changed its study.
CONFIGURATION = f"""
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "403", "404", "409", "412", "429", "5xx"]

[[operations]]
include-name = "{HEALTH}"
checks.not_a_server_error.expected-statuses = ["2xx", "4xx", "503"]
"""
#: Test cases of an operation in each phase.
EXAMPLES = os.environ.get("EXAMPLES", "5")
#: On a busy machine a thousand predictions take long.
OPTIONS = ("--checks", "all", "--max-examples", EXAMPLES, "--seed", "1", "--request-timeout", "60")


@pytest.fixture
def program() -> str:
    """schemathesis, in an environment of its own: its dependencies are not those of Prelim."""
    found = os.environ.get("SCHEMATHESIS") or shutil.which("schemathesis")
    if not found:
        missing("schemathesis")
    return str(found)


@pytest.fixture
def url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """URL of the real server."""
    port = free_port()
    # Without the limit of failed logins: schemathesis tests each operation without a key.
    settings = Settings(
        data_dir=tmp_path, database_url=SecretStr(database_url), api_port=port, failed_logins_per_minute=0
    )
    server = uvicorn.Server(serve.config(settings))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def key(database_url: str) -> str:
    with transaction(database_url) as session:
        return keys.create(session, "schemathesis", SCOPES)


@pytest.fixture
def seeds(arrivals: Arrivals, url: str, key: str, tmp_path: Path) -> dict[str, Any]:
    """Ids for the parameters of each operation; each change has a study whose state permits it."""
    read = arrivals.reported()
    held, released, asked = arrivals.reported(), arrivals.reported(), arrivals.reported()
    arrivals.late_image(held, **OTHER)
    with transaction(arrivals.url) as session:
        holds.hold(session, released, "motion", "a test")
    changes = {"impression": arrivals.reported(), "hold": arrivals.reported(), "release": released, "identity": held}
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as client:
        tags = {
            study: client.get(f"/v1/studies/{study}/report").headers.get("etag", "")
            for study in (read, *changes.values())
        }
        question = client.post(f"/v1/studies/{asked}/questions", json={"question": "Is there an effusion?"}).json()
        diagnosis = client.post(f"/v1/studies/{asked}/diagnoses", json={"options": ["effusion", "mass"]}).json()
    image = stored(arrivals, read, tmp_path, PIXELS)
    found: dict[str, Any] = {
        FRAME: {"path": {"instance_id": image, "frame": 1}},
        "all": {"path": {"study_id": str(read)}, "headers": {"if-match": tags[read]}},
        "GET /v1/questions/{inquiry_id}": {"path": {"inquiry_id": question["id"]}},
        "GET /v1/diagnoses/{inquiry_id}": {"path": {"inquiry_id": diagnosis["id"]}},
    }
    for change, study in changes.items():
        given = {"path": {"study_id": str(study)}, "headers": {"if-match": tags[study]}}
        found[f"POST /v1/studies/{{study_id}}/{change}"] = given
    return found


def test_no_answer_differs_from_the_document(
    program: str, url: str, key: str, seeds: dict[str, Any], tmp_path: Path
) -> None:
    seeded, answers = tmp_path / "seeds.json", tmp_path / "answers"
    seeded.write_text(json.dumps(seeds))
    header = f"Authorization: Bearer {key}"
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    output = tmp_path / "output"
    with output.open("w") as file:
        run = subprocess.run(
            [program, "run", f"{url}/openapi.json", "-H", header, *OPTIONS],
            env=os.environ | {"SCHEMATHESIS_HOOKS": str(HOOKS), "SEEDS": str(seeded), "ANSWERS": str(answers)},
            cwd=tmp_path,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    statuses = defaultdict(set)
    for line in answers.read_text().splitlines():
        status, _, operation = line.partition(" ")
        statuses[operation].add(int(status))

    assert run.returncode == 0, output.read_text()[-8000:]
    described = httpx.get(f"{url}/openapi.json").json()["paths"]
    operations = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods} - {HEALTH}
    assert {operation for operation in operations if not any(status < 300 for status in statuses[operation])} == set()
