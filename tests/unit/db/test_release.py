"""The release of a program differs between two builds of one version."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from db.release import LEFT_OUT, PACKAGES, ROOT, newest_migration, release, sources_digest
from tests.conftest import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A small program with the packages of this one."""
    folders = [*PACKAGES, "db/migrations", "db/migrations/versions", "deploy/demo", LEFT_OUT]
    for folder in folders:
        write(tmp_path / folder / "__init__.py", "")
    write(tmp_path / "api" / "app.py", "ONE = 1\n")
    write(tmp_path / "db" / "migrations" / "versions" / "0001_first.py", "")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_release_has_version_schema_and_digest() -> None:
    assert ROOT == REPOSITORY
    assert re.fullmatch(r"\d+\.\d+\.\d+\+\d{4}\.[0-9a-f]{8}", release())
    assert release() == release()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("api/app.py", "ONE = 2\n"),
        ("worker/fresh.py", ""),
        ("api/__init__.py", "ONE = 1\n"),
        ("db/migrations/versions/0002_second.py", ""),
    ],
)
def test_changed_or_new_module_is_another_release(sources: Path, name: str, text: str) -> None:
    before = sources_digest(sources)
    write(sources / name, text)

    assert sources_digest(sources) != before


def test_renamed_module_is_another_release(sources: Path) -> None:
    before = sources_digest(sources)
    (sources / "api" / "app.py").rename(sources / "api" / "other.py")

    assert sources_digest(sources) != before


@pytest.mark.parametrize("name", ["tests/test_app.py", "README.md", "deploy/docker/tool.py", "api/__pycache__/app.pyc"])
def test_file_that_no_installation_runs_changes_nothing(sources: Path, name: str) -> None:
    before = sources_digest(sources)
    write(sources / name, "anything")

    assert sources_digest(sources) == before


def test_images_of_one_build_are_one_release(sources: Path) -> None:
    """The image `core` leaves out the model of the demo, which the others have."""
    before = sources_digest(sources)
    write(sources / LEFT_OUT / "shape.py", "ONE = 1\n")

    removed = re.findall(r"-path '\*/([\w/]+)' -prune", (REPOSITORY / "deploy/docker/Dockerfile").read_text())
    # The others are of dependencies, which a release does not name.
    assert [folder for folder in removed if (REPOSITORY / folder).parent.is_dir()] == [LEFT_OUT]
    assert sources_digest(sources) == before


def test_newest_migration_is_that_of_the_schema(sources: Path) -> None:
    write(sources / "db" / "migrations" / "versions" / "0012_later.py", "")

    assert newest_migration(sources) == "0012"
    assert release().split("+")[1].startswith(newest_migration(REPOSITORY))
