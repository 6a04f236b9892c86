"""The image of backups: it backs up, verifies and restores an installation in containers (`make test-containers`)."""

from __future__ import annotations

import secrets
import subprocess
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.containers.conftest import database
from tests.containers.engine import COMPOSE, LIMITS, Containers, build, podman
from tests.containers.studies import jobs, send, states
from tests.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.embedded.postgres import Postgres
    from tests.containers.engine import Ended

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
]
BACKUP: list[str] = COMPOSE["backup"]["command"]
RESTORE = ["prelim", "restore", *BACKUP[2:]]
#: Owner and mode of a folder that Docker creates.
OF_ROOT = "chown 0:0 /backups && chmod 0755 /backups"
#: Prints the digests of the stored objects.
DIGESTS = """
import hashlib, pathlib
for path in sorted(pathlib.Path("/var/lib/prelim/spool/store").rglob("*.dcm")):
    print(hashlib.sha256(path.read_bytes()).hexdigest())
"""


@pytest.fixture(scope="session")
def image() -> str:
    return build("backup")


@pytest.fixture
def source(containers: Containers, image: str, database_url: str, tmp_path: Path) -> Containers:
    """An installation without workers, with a study whose report is queued, and a key of the backups."""
    (containers.secrets / "backup_key").write_text(secrets.token_hex(32))
    containers.run(image, "prelim", "migrate")
    for service in ("listener", "dispatcher"):
        containers.start(service, image)
    for service in ("listener", "dispatcher"):
        containers.wait_until_ready(service)
    send(containers, tmp_path / "one", count=1)
    wait_until(lambda: jobs(database_url, "state = 'queued'") == 1, 120)
    return containers


@pytest.fixture
def empty(tmp_path: Path, postgres: Postgres, broker_url: str, source: Containers) -> Iterator[Containers]:
    """An installation without files and tables, with the key of the other one."""
    (tmp_path / "empty").mkdir()
    made = Containers(tmp_path / "empty", database(postgres, f"restored_{uuid.uuid4().hex}"), broker_url)
    (made.secrets / "backup_key").write_text((source.secrets / "backup_key").read_text())
    yield made
    made.remove()


def run(
    containers: Containers, image: str, *command: str, backups_of: Containers | None = None, mode: str = "rw"
) -> Ended:
    """Run a command as the service `backup`."""
    options = containers.options("backup", COMPOSE["backup"]["mem_limit"])
    data = options.index(f"{containers.name}:/var/lib/prelim")
    options[data] += f":{mode}"
    volumes = [f"--volume={(backups_of or containers).name}-{name}:/{name}" for name in ("backups", "scratch")]
    shared = f"--shm-size={COMPOSE['backup']['shm_size']}"
    ran = ["podman", "run", "--rm", *options, *volumes, shared, image, *command]
    return subprocess.run(ran, capture_output=True, text=True, check=False)


def test_backup_is_made_verified_and_restored_into_an_empty_installation(
    source: Containers, empty: Containers, image: str, database_url: str
) -> None:
    # Read-only, as on Kubernetes.
    made = run(source, image, *BACKUP, mode="ro")
    assert made.returncode == 0, made.stdout + made.stderr

    verified = run(source, image, *RESTORE, "--verify", mode="ro")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "NOT verified" not in verified.stdout
    assert run(source, image, "ls", "-A", "/scratch").stdout == ""

    restored = run(empty, image, *RESTORE, backups_of=source)
    assert restored.returncode == 0, restored.stdout + restored.stderr
    there = (empty.secrets / "prelim_database_url").read_text()
    assert states(there) == states(database_url)
    assert jobs(there, "state = 'queued'") == 1
    objects = [run(each, image, "python3", "-c", DIGESTS).stdout.split() for each in (source, empty)]
    assert objects[0] == objects[1]
    assert objects[0]


def test_restore_is_refused_by_a_database_with_tables(source: Containers, image: str) -> None:
    assert run(source, image, *BACKUP).returncode == 0

    refused = run(source, image, *RESTORE)

    assert refused.returncode == 2
    assert "the database has tables" in refused.stderr


def test_folder_of_another_user_is_refused(containers: Containers, image: str) -> None:
    """The engine makes a missing folder of BACKUP_FOLDER for root."""
    (containers.secrets / "backup_key").write_text(secrets.token_hex(32))
    containers.run(image, "prelim", "migrate")
    volume = f"{containers.name}-backups:/backups"
    podman("run", "--rm", "--user", "0", *LIMITS, "--volume", volume, image, "sh", "-c", OF_ROOT)

    refused = run(containers, image, *BACKUP)

    assert refused.returncode == 2
    assert "/backups belongs to user 0, this command runs as user 10001" in refused.stderr
