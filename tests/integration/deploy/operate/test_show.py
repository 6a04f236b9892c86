"""`prelim show STUDY --images FILE`: the images of a report as a contact sheet."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from sqlalchemy import select
from sqlalchemy.exc import ProgrammingError

from db.access import audit_log
from db.jobs import claims
from db.models import AuditRow
from db.reports import versions
from db.session import transaction
from db.settings import Settings
from deploy.operate.study_actions import show
from tests.integration.db.conftest import Arrivals

if TYPE_CHECKING:
    from pathlib import Path

_INK = np.array((255, 176, 80))


def reported(arrivals: Arrivals, basis: str, limitations: list[str]) -> None:
    """A report on one grey image."""
    png = io.BytesIO()
    Image.new("RGB", (90, 90), (120, 120, 120)).save(png, "PNG")
    shown = versions.Shown(png.getvalue(), sop_instance_uid="2.25.1", frame=0, reason="only image", transform={})
    draft = versions.Draft("No effusion.", "Normal.", basis, "1", "d", {}, limitations=limitations, images=[shown])
    claim = arrivals.running_job()
    with transaction(arrivals.url) as session:
        claims.finish(session, claim, draft)


@pytest.mark.parametrize("name", ["sheet.png", "sheet", "sheet.xyz"])
def test_sheet_is_a_png_under_any_name_and_shows_limitations(database_url: str, tmp_path: Path, name: str) -> None:
    arrivals = Arrivals(database_url)
    reported(arrivals, "1 of 2 images", ["1 image was not used: the image cannot be decoded."])

    show(Settings(database_url=database_url), Console(file=io.StringIO()), arrivals.uid, tmp_path / name)

    sheet = Image.open(tmp_path / name)
    below = np.asarray(sheet).astype(int)[-40:]
    assert sheet.format == "PNG"
    assert (np.abs(below - _INK).sum(axis=2) < 60).any()


def test_basis_is_printed_without_markup(database_url: str) -> None:
    arrivals, printed = Arrivals(database_url), io.StringIO()
    reported(arrivals, "1 of 1 slices of series 3[/b]", [])

    show(Settings(database_url=database_url), Console(file=printed), arrivals.uid, None)

    assert "series 3[/b]" in printed.getvalue()
    with transaction(database_url) as session:
        row = session.scalars(select(AuditRow)).one()
        assert (row.action, row.route, len(row.studies)) == ("read", "prelim show", 1)


def test_report_is_not_shown_without_its_row_in_the_audit_log(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals, printed = Arrivals(database_url), io.StringIO()
    reported(arrivals, "1 of 1 images", [])
    monkeypatch.setattr(audit_log, "INSERT", "INSERT INTO no_such_table SELECT %(rows)s")

    with pytest.raises(ProgrammingError):
        show(Settings(database_url=database_url), Console(file=printed), arrivals.uid, None)

    assert printed.getvalue() == ""
