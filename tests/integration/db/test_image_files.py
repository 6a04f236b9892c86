"""Images of reports in files: durable before their rows, and unused only when no transaction can insert a row."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic import command
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from db.errors import ImageDamaged
from db.jobs import claims
from db.migrations.upgrade import alembic_config, migrate
from db.models import Report, ReportImage
from db.reports import image_files
from db.reports.image_files import Use
from db.reports.versions import Draft, Shown
from db.session import transaction
from db.studies import lifecycle

if TYPE_CHECKING:
    from db.jobs.claims import Claim
    from tests.integration.db.conftest import Arrivals

PNGS = [b"first image", b"second image"]
DRAFT = Draft("f", "i", "2 of 2 images", "1", "d", {}, images=[Shown(png, "2.25.1", 0, "only", {}) for png in PNGS])


def write(claim: Claim, folder: Path) -> list[str]:
    return image_files.write(folder, claim.job_id, claim.token, PNGS)


def use(arrivals: Arrivals, path: str) -> Use:
    with transaction(arrivals.url) as session:
        return image_files.use(session, path)


def stored(arrivals: Arrivals) -> list[ReportImage]:
    with transaction(arrivals.url) as session:
        return list(session.scalars(select(ReportImage).order_by(ReportImage.ordinal)))


def finished(arrivals: Arrivals, folder: Path) -> list[str]:
    claim = arrivals.running_job()
    paths = write(claim, folder)
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT, paths)
    return paths


def test_image_in_a_file_is_read_back(arrivals: Arrivals, tmp_path: Path) -> None:
    paths = finished(arrivals, tmp_path)

    assert [image_files.read(tmp_path, image) for image in stored(arrivals)] == PNGS
    assert [image.png for image in stored(arrivals)] == [None, None]
    assert [(tmp_path / path).stat().st_mode & 0o077 for path in paths] == [0, 0]


@pytest.mark.parametrize("content", [None, b"", b"second image", b"first imagE", b"first image and more"])
def test_missing_or_other_file_is_no_image(arrivals: Arrivals, tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / finished(arrivals, tmp_path)[0]
    path.unlink()
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ImageDamaged, match="missing" if content is None else "digest differs"):
        image_files.read(tmp_path, stored(arrivals)[0])


def test_file_that_the_disk_cannot_read_is_no_image(arrivals: Arrivals, tmp_path: Path) -> None:
    path = tmp_path / finished(arrivals, tmp_path)[0]
    path.unlink()
    path.mkdir()

    with pytest.raises(ImageDamaged, match="cannot be read"):
        image_files.read(tmp_path, stored(arrivals)[0])


def test_files_and_their_folders_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    token = uuid.uuid4()
    paths = image_files.write(tmp_path, token, token, PNGS)

    folder = (tmp_path / paths[0]).parent
    assert flushed == [*(str(tmp_path / path) for path in paths), *map(str, (folder, *folder.parents))][: len(flushed)]
    assert flushed[-1] == str(tmp_path)


def test_file_is_used_while_its_claim_runs_and_while_its_row_exists(arrivals: Arrivals, tmp_path: Path) -> None:
    claim = arrivals.running_job()
    path, other = write(claim, tmp_path)
    assert use(arrivals, path) == Use.USED

    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT, [path, other])
    assert use(arrivals, path) == Use.USED

    with transaction(arrivals.url) as session:
        session.delete(session.get_one(ReportImage, (session.scalars(select(Report.id)).one(), 1)))
    assert use(arrivals, path) == Use.UNUSED


def test_file_of_a_claim_that_ended_is_unused(arrivals: Arrivals, tmp_path: Path) -> None:
    claim = arrivals.running_job()
    path, _ = write(claim, tmp_path)
    with transaction(arrivals.url) as session:
        claims.give_back(session, claim)
    assert use(arrivals, path) == Use.UNUSED

    again = arrivals.claim()
    assert again is not None
    assert use(arrivals, path) == Use.UNUSED
    assert image_files.remove_unused(arrivals.url, tmp_path, path)
    assert not image_files.remove_unused(arrivals.url, tmp_path, write(again, tmp_path)[0])


def test_file_of_a_move_is_used_until_the_move_ends(arrivals: Arrivals, tmp_path: Path) -> None:
    job_id = arrivals.running_job().job_id
    with image_files.moving(arrivals.url) as move:
        [path] = image_files.write(tmp_path, job_id, move.token, [b"png"])
        assert use(arrivals, path) == Use.USED
        with transaction(arrivals.url) as session:
            move.insist(session)
    assert use(arrivals, path) == Use.UNUSED


def test_move_without_its_connection_stores_no_row(arrivals: Arrivals, tmp_path: Path) -> None:
    job_id = arrivals.running_job().job_id

    def move_without_connection() -> None:
        with image_files.moving(arrivals.url) as move:
            end_connection()
            [path] = image_files.write(tmp_path, job_id, move.token, [b"png"])
            assert image_files.remove_unused(arrivals.url, tmp_path, path)
            with transaction(arrivals.url) as session:
                move.insist(session)

    def end_connection() -> None:
        with transaction(arrivals.url) as session:
            lock = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory')"
            session.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {lock}"))

    with pytest.raises(OperationalError):
        move_without_connection()


def test_file_of_a_report_that_is_being_stored_is_used_at_once(arrivals: Arrivals, tmp_path: Path) -> None:
    claim = arrivals.running_job()
    paths = write(claim, tmp_path)
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, DRAFT, paths)
        assert use(arrivals, paths[0]) == Use.USED
    assert use(arrivals, paths[0]) == Use.USED


def test_files_of_another_database_or_program_are_unknown(arrivals: Arrivals, tmp_path: Path) -> None:
    token = uuid.uuid4()
    [path] = image_files.write(tmp_path, token, token, [b"png"])

    assert use(arrivals, path) == Use.UNKNOWN
    assert use(arrivals, "report_images/readme.txt") == Use.UNKNOWN


def test_image_is_in_exactly_one_place(arrivals: Arrivals, tmp_path: Path) -> None:
    finished(arrivals, tmp_path)

    with pytest.raises(IntegrityError, match="image_in_one_place"), transaction(arrivals.url) as session:
        session.scalars(select(ReportImage)).first().png = b"png"  # type: ignore[union-attr]


def test_downgrade_is_refused_while_images_are_in_files(arrivals: Arrivals, tmp_path: Path) -> None:
    finished(arrivals, tmp_path)

    with pytest.raises(IntegrityError, match="null values"):
        command.downgrade(alembic_config(arrivals.url), "0012")
    migrate(arrivals.url)
    assert [image_files.read(tmp_path, image) for image in stored(arrivals)] == PNGS
    with transaction(arrivals.url) as session:
        assert lifecycle.find(session, arrivals.uid).state == "reported"


def test_pipe_at_the_place_of_an_image_is_damage(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "1.png")

    with pytest.raises(ImageDamaged, match="digest differs"):
        image_files.read(tmp_path, ReportImage(file_path="1.png", file_bytes=5, sha256="0" * 64))
