"""An installation with stored objects, a folder of backups, and an empty place to restore into."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select

from db.models import Instance
from db.session import engine, transaction
from deploy.demo.demo import CHECKPOINT
from deploy.embedded.server_process import free_port
from deploy.operate.backup import create
from dicom_listener.indexing import indexer
from tests.conftest import REPOSITORY
from tests.integration.dicom_listener.listening import settings_for
from tests.integration.dicom_listener.objects import image, receive
from tests.services import database_named, execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from db.settings import Settings
    from deploy.embedded.postgres import Postgres
    from deploy.operate.backup.copied_files import Files
    from deploy.operate.backup.repository import Repository

KEY, OTHER_KEY = bytes(range(32)), bytes(32)


def installation(path: Path, url: str, **values: Any) -> Settings:
    """Settings of an installation with two objects."""
    settings = settings_for(path, database_url=SecretStr(url), **values)
    for _ in range(2):
        arrived(settings)
    return settings


def arrived(settings: Settings) -> None:
    receive(settings, image())
    indexer.run_once(settings)


@contextmanager
def empty_place(path: Path, postgres: Postgres) -> Iterator[Settings]:
    """An installation without files and tables."""
    name = f"empty_{uuid.uuid4().hex}"
    execute(postgres, f"CREATE DATABASE {name}")
    url = database_named(postgres, name)
    yield settings_for(path, database_url=SecretStr(url))
    engine(url).dispose()
    execute(postgres, f"DROP DATABASE {name} WITH (FORCE)")


def back_up(settings: Settings, repository: Repository, *, keep: int = 9) -> tuple[Files, str]:
    printed = io.StringIO()
    return create.run(settings, Console(file=printed, width=200), repository, keep=keep), printed.getvalue()


def stored_files(settings: Settings) -> list[Path]:
    """The files of the instances, the oldest first."""
    with transaction(settings.database()) as session:
        paths = session.scalars(select(Instance.file_path).order_by(Instance.id)).all()
    return [settings.operations.data_dir / path for path in paths]


def sealed(folder: Path) -> dict[Path, bytes]:
    """The copies of files in a folder of backups."""
    return {path: path.read_bytes() for path in (folder / "files").rglob("*.sealed")}


def environment(settings: Settings) -> dict[str, str]:
    """Variables of an installation that can run: with the checkpoint of the demo, on free ports."""
    ports = {f"PRELIM_{name}_PORT": str(free_port()) for name in ("DICOM", "API", "FLOWER")}
    named = {"PRELIM_DATABASE_URL": settings.database(), "PRELIM_CHECKPOINT": str(CHECKPOINT)}
    return os.environ | {"PRELIM_DATA_DIR": str(settings.operations.data_dir), **named, **ports}


def prelim(settings: Settings, *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command; *before* are statements that its process executes first."""
    code = f"{before}\nfrom deploy.cli import app\napp.main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment(settings),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def key_file(path: Path, key: bytes = KEY) -> str:
    file = path / f"{key[1]}.key"
    file.write_text(key.hex())
    file.chmod(0o600)
    return str(file)
