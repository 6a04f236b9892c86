"""The tests of the images take minutes and gigabytes: only `make test-containers` collects them."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.containers.engine import Containers, build
from tests.services import database_named, execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.embedded.postgres import Postgres

TESTS = ["test_backup_image.py", "test_containers.py", "test_optional_services.py"]
collect_ignore = [] if "CONTAINERS" in os.environ else TESTS
#: Limit of a worker with the demo model and torch.
WORKER_MEMORY = "2g"


@pytest.fixture(scope="session")
def core() -> str:
    assert shutil.which("podman"), "podman is needed"
    return build("core")


@pytest.fixture(scope="session")
def worker(core: str) -> str:
    assert core
    return build("worker-cpu")


@pytest.fixture(scope="session")
def core_with_traces(core: str) -> str:
    assert core
    return build("core", "otel")


@pytest.fixture
def database_url(postgres: Postgres) -> str:
    """An empty database, which the image migrates."""
    return database(postgres, f"containers_{uuid.uuid4().hex}")


def database(postgres: Postgres, name: str) -> str:
    """Create an empty database and return its URL."""
    execute(postgres, f"CREATE DATABASE {name}")
    return database_named(postgres, name)


@pytest.fixture
def containers(tmp_path: Path, database_url: str, broker_url: str) -> Iterator[Containers]:
    made = Containers(tmp_path, database_url, broker_url)
    yield made
    made.remove()


@pytest.fixture
def installation(containers: Containers, core: str, worker: str) -> Containers:
    """Listener, dispatcher, API and one worker, ready."""
    containers.run(core, "prelim", "migrate")
    for service in ("listener", "dispatcher", "api"):
        containers.start(service, core)
    containers.start("worker", worker, WORKER_MEMORY)
    for service in ("listener", "dispatcher", "api", "worker"):
        containers.wait_until_ready(service, 300)
    return containers
