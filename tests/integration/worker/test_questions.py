"""A question asked while the queue is full of reports is answered before the next routine report begins."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import structlog
from celery.contrib.testing.worker import start_worker

from db.answers import inquiries, stored
from db.answers.answer import Answer, Question
from db.jobs.celery_app import make_app, send
from db.operations import invariants
from db.session import transaction
from db.states import JobState
from db.studies import lifecycle
from tests.integration.db.conftest import Arrivals
from tests.integration.db.jobs.test_claims import DRAFT
from tests.integration.db.jobs.test_inquiries import ANSWER
from tests.polling import wait_until
from worker.process import Worker, add_task

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable

    from db.reports.versions import Draft
    from db.settings import Settings
    from worker.pipeline.pipeline import StudyToReport

WORDS = "Is the zebra effusion left?"


class Model:
    """Writes reports and answers one after the other, and keeps the order; the first report waits for `asked`."""

    info: dict[str, Any] = {}  # noqa: RUF012 - never changed
    stalled_seconds = 0.0

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.asked = threading.Event()

    def write(self, study: StudyToReport, on_progress: Callable[[], None]) -> Draft | Answer:
        self.begun.append("question" if study.inquiry else "report")
        if len(self.begun) == 1:
            assert self.asked.wait(30)
        on_progress()
        return ANSWER if study.inquiry == Question(WORDS) else DRAFT


def ask(arrivals: Arrivals) -> uuid.UUID:
    with transaction(arrivals.url) as session:
        return inquiries.ask(session, lifecycle.find(session, arrivals.uid, lock=True), Question(WORDS), "tests")


def test_question_is_answered_before_the_next_routine_report(
    arrivals: Arrivals, settings: Settings, broker_url: str
) -> None:
    others = [Arrivals(arrivals.url) for _ in range(12)]
    for other in others:
        other.image()
    arrivals.settle()
    app, model, events = make_app(broker_url), Model(), list[dict[str, Any]]()
    worker = Worker(settings, lambda _: model, app)
    worker._writer = model
    add_task(app, worker.report)

    with app.connection() as connection, structlog.testing.capture_logs() as logs:
        receiver = app.events.Receiver(connection, handlers={"*": events.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"timeout": 60})
        thread.start()
        with start_worker(app, pool="threads", concurrency=1, perform_ping_check=False):
            with transaction(arrivals.url) as session:
                first = lifecycle.find(session, arrivals.uid)
            send(app, first.id)
            wait_until(lambda: model.begun, 20)
            asked = ask(others[-1])
            send(app, asked)
            model.asked.set()
            wait_until(lambda: len(model.begun) == 1 + len(others) + 1, 30)
        receiver.should_stop = True
        thread.join(20)

    assert model.begun == ["report", "question", *["report"] * len(others)]
    with transaction(arrivals.url) as session:
        found, line = stored.read(session, asked), inquiries.find(session, asked)
        assert invariants.check(session, 3) == []
    assert found is not None
    assert found.result == ANSWER
    assert line is not None
    assert line.state == JobState.FINISHED
    assert "zebra" not in json.dumps([events, logs], default=repr)
    assert any(event["type"] == "task-received" for event in events)
