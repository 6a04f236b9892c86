"""Questions and diagnoses from the command line."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner, Result

from db.answers import inquiries
from db.errors import InvalidInquiry, NotPossible
from db.session import transaction
from deploy.cli import app
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_inquiries import ANSWER, DIAGNOSIS, finish
from tests.polling import wait_until

if TYPE_CHECKING:
    import uuid

    from db.answers.answer import Answer, Diagnosis


@pytest.fixture
def asked_about(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Arrivals:
    monkeypatch.setenv("PRELIM_DATABASE_URL", database_url)
    arrivals = Arrivals(database_url)
    arrivals.image()
    arrivals.settle()
    return arrivals


def prelim(*arguments: str, text: str | None = None) -> Result:
    return CliRunner().invoke(app.app, arguments, input=text)


def answering(arrivals: Arrivals, result: Answer | Diagnosis) -> threading.Thread:
    """Answer the first inquiry that is asked."""

    def claim() -> bool:
        found = arrivals.claim()
        if found is None or found.kind == "report":
            return False
        finish(arrivals, found, result)
        return True

    thread = threading.Thread(target=lambda: wait_until(claim, 20))
    thread.start()
    return thread


def test_ask_prints_the_answer_and_its_banner(asked_about: Arrivals) -> None:
    thread = answering(asked_about, ANSWER)
    finished = prelim("ask", asked_about.uid, "-", text="Is there an effusion?\n")
    thread.join()

    assert finished.exit_code == 0, finished.output
    assert "PRELIMINARY" in finished.output
    assert "Yes, on the left.\nconfidence 0.90 (uncalibrated)\n1 of 1 images, revision 1\n" in finished.output


def test_diagnose_prints_probabilities_and_votes(asked_about: Arrivals) -> None:
    thread = answering(asked_about, DIAGNOSIS)
    finished = prelim("diagnose", asked_about.uid, "--options", "effusion, mass")
    thread.join()

    assert finished.exit_code == 0, finished.output
    assert "  0.70 effusion (2 similar cases)\n  0.10 mass\n  0.20 none of these\n" in finished.output
    assert "effusion, mass" in prelim("answers", asked_about.uid).output


def test_inquiry_is_cancelled_and_retried_by_its_id(asked_about: Arrivals) -> None:
    inquiry_id = prelim("ask", asked_about.uid, "Effusion?", "--wait", "0").output.strip()

    assert prelim("cancel", inquiry_id).exit_code == 0
    assert state(asked_about, inquiry_id) == "cancelled"
    assert prelim("retry", inquiry_id).exit_code == 0
    assert state(asked_about, inquiry_id) == "queued"
    assert asked_about.state() == "settled"


def state(arrivals: Arrivals, inquiry_id: str | uuid.UUID) -> str:
    with transaction(arrivals.url) as session:
        found = inquiries.find(session, inquiry_id)  # type: ignore[arg-type]
    assert found is not None
    return found.state


def test_text_that_cannot_be_asked_is_one_error(asked_about: Arrivals) -> None:
    assert isinstance(prelim("ask", asked_about.uid, " ").exception, InvalidInquiry)
    assert isinstance(prelim("diagnose", asked_about.uid, "--options", "one").exception, InvalidInquiry)
    asked_about.image()
    assert isinstance(prelim("ask", asked_about.uid, "Effusion?").exception, NotPossible)
