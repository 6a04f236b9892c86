"""Commands that run processes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.launcher import launcher
from deploy.launcher.processes import MIGRATE
from deploy.operate.doctor import preflight

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from db.settings import Settings


@pytest.mark.parametrize(
    ("options", "migration"), [([], MIGRATE), (["--new-database"], ("prelim", "migrate", "--new-database"))]
)
def test_up_accepts_a_new_database_only_by_its_option(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], migration: tuple[str, ...]
) -> None:
    begun: list[Sequence[str]] = []

    @contextmanager
    def running(_settings: Settings, *, migration: Sequence[str]) -> Iterator[Any]:
        begun.append(migration)
        raise launcher.StartFailed("no more than that")
        yield

    def passes(_settings: Settings) -> None:
        """Find no fault."""

    monkeypatch.setenv("PRELIM_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(launcher, "running", running)
    monkeypatch.setattr(preflight, "check", passes)

    ended = CliRunner().invoke(app.app, ["up", *options])

    assert isinstance(ended.exception, launcher.StartFailed)
    assert begun == [migration]
