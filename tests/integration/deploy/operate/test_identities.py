"""`prelim identity`: the identities of a study, and the decision of the user of the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from sqlalchemy import select

from db.errors import NotPossible
from db.models import AuditRow
from db.session import transaction
from db.settings import Settings
from db.studies.identity.decisions import Decision
from db.studies.lifecycle import StudyAttributes
from deploy.operate import identities
from tests.integration.db.conftest import Arrivals


def printed(arrivals: Arrivals, *, values: bool = False) -> str:
    text = io.StringIO()
    identities.show(Settings(database_url=arrivals.url), Console(file=text, width=200), arrivals.uid, values=values)
    return text.getvalue()


def test_operator_sees_and_decides(database_url: str) -> None:
    arrivals = Arrivals(database_url)
    arrivals.image()
    arrivals.image(study=StudyAttributes(arrivals.uid, patient_id="PHANTOM-2", patient_name="PHANTOM^TWO"))

    assert "Patient ID, Patient's Name" in printed(arrivals)
    assert "PHANTOM" not in printed(arrivals)
    assert "PHANTOM-2" in printed(arrivals, values=True)
    settings, console = Settings(database_url=database_url), Console(file=io.StringIO())
    with pytest.raises(NotPossible, match="no held identity has number 3"):
        identities.decide(settings, console, arrivals.uid, Decision.TAKE_OVER, 3)
    identities.decide(settings, console, arrivals.uid, Decision.KEEP_APART, None)
    assert "keep_apart by user" in printed(arrivals)
    with transaction(database_url) as session:
        rows = session.scalars(select(AuditRow).order_by(AuditRow.at)).all()
        assert [(row.action, row.route, len(row.studies)) for row in rows] == [
            ("read", "prelim identity --values", 2),
            ("create", "prelim identity keep_apart", 2),
        ]
        assert all(row.principal.startswith("user ") for row in rows)
    assert arrivals.state() == "receiving"
