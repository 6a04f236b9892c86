"""Images of reports in files: what `prelim audit` finds, and the moves into files and back."""

from __future__ import annotations

import datetime as dt
import io
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select, text

from db.models import ReportImage
from db.reports import image_files
from db.session import transaction
from db.settings import Settings
from db.studies.deletion import file_deletions
from deploy.launcher import lost_database
from deploy.operate import audit, report_images
from tests.integration.api.arrivals import Arrivals, png

if TYPE_CHECKING:
    from pathlib import Path

PNGS = [png(shade) for shade in (10, 20, 30)]


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """An installation with two reports, of three images in all, in the database."""
    arrivals = Arrivals(database_url)
    arrivals.reported(arrivals.draft(PNGS[:2]))
    arrivals.reported(arrivals.draft(PNGS[2:]))
    settings = Settings(data_dir=tmp_path, database_url=SecretStr(database_url))
    # As the dispatcher notes it: no object is stored.
    lost_database.accept(settings)
    return settings


def move(settings: Settings, place: report_images.Place) -> str:
    printed = io.StringIO()
    report_images.move(settings, Console(file=printed), place)
    return printed.getvalue()


def violated(settings: Settings) -> list[str]:
    found = report_images.violations(settings, None, None)
    return [f"{violation.rule}: {violation.subject.partition(': ')[2]}" for violation in found]


def images(settings: Settings) -> list[ReportImage]:
    with transaction(settings.database()) as session:
        return list(session.scalars(select(ReportImage).order_by(ReportImage.report_id, ReportImage.ordinal)))


def contents(settings: Settings) -> set[bytes]:
    return {image_files.read(settings.operations.data_dir, image) for image in images(settings)}


def files(settings: Settings) -> list[Path]:
    return sorted((settings.operations.data_dir / image_files.FOLDER).rglob("*.png"))


def test_images_move_into_files_and_back(settings: Settings) -> None:
    assert move(settings, "files") == "moved 3 images\n"
    assert move(settings, "files") == "moved 0 images\n"
    assert len(files(settings)) == 3
    assert [image.png for image in images(settings)] == [None] * 3
    assert contents(settings) == set(PNGS)
    assert violated(settings) == []

    assert move(settings, "database") == "moved 3 images\n"
    assert files(settings) == []
    assert contents(settings) == set(PNGS)
    assert violated(settings) == []


def test_damaged_image_is_not_moved_and_is_named(settings: Settings) -> None:
    move(settings, "files")
    damaged = settings.operations.data_dir / str(images(settings)[2].file_path)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")

    printed = move(settings, "database")

    assert "is left as it is: the stored image is not the one" in printed
    assert printed.endswith("moved 2 images\n")
    assert files(settings) == [damaged]


def test_interrupted_move_is_completed_by_the_next(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    move(settings, "files")
    with monkeypatch.context() as patched:
        patched.setattr(file_deletions, "delete_files", killed)
        with pytest.raises(KeyboardInterrupt):
            move(settings, "database")
    assert len(files(settings)) == 3
    assert violated(settings) == []

    assert move(settings, "database") == "moved 0 images\n"
    assert files(settings) == []
    assert contents(settings) == set(PNGS)


def test_files_of_a_move_into_files_that_stored_no_row_are_deleted(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(image_files.Move, "insist", killed)
        with pytest.raises(KeyboardInterrupt):
            move(settings, "files")
    assert violated(settings) == [f"{report_images.UNUSED}: "] * len(files(settings))

    assert report_images.remove_unused(settings, dry_run=True) == len(files(settings)) > 0
    assert report_images.remove_unused(settings, dry_run=False) > 0
    assert files(settings) == []
    assert contents(settings) == set(PNGS)


def named(settings: Settings) -> list[Path]:
    return [settings.operations.data_dir / image.file_path for image in images(settings) if image.file_path]


def test_audit_finds_missing_and_damaged_images_in_both_places(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE report_images SET png = '\\x00' WHERE ordinal = 2"))
    assert violated(settings) == [f"{report_images.DAMAGED}: its digest differs"]

    with transaction(settings.database()) as session:
        session.execute(text("DELETE FROM report_images WHERE ordinal = 2"))
    move(settings, "files")
    gone, damaged = named(settings)
    gone.unlink()
    damaged.write_bytes(png(99))
    found = violated(settings)
    assert [cause.partition(": ")[2][:40] for cause in found] == [
        "the file of the image is missing (report",
        "the stored image is not the one that the",
    ]
    assert not any(audit.repair_violation(settings, each) for each in report_images.violations(settings, None, None))


def test_file_of_another_database_is_named_and_never_removed(settings: Settings) -> None:
    move(settings, "files")
    path = settings.operations.data_dir / image_files.FOLDER / "00" / "notes.txt"
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")

    [violation] = report_images.violations(settings, None, None)
    assert violation == (report_images.Violation(report_images.UNKNOWN, "report_images/00/notes.txt"))
    assert not audit.repair_violation(settings, violation)
    assert report_images.remove_unused(settings, dry_run=False) == 0
    assert path.exists()


def test_sample_and_age_limit_the_images_that_are_read(settings: Settings) -> None:
    with transaction(settings.database()) as session:
        session.execute(text("UPDATE report_images SET png = '\\x00'"))

    assert len(list(report_images.violations(settings, 2, None))) == 2
    assert len(list(report_images.violations(settings, None, dt.timedelta(hours=1)))) == 3
    assert list(report_images.violations(settings, None, dt.timedelta(0))) == []
