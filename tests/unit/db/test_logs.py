"""Log records: one format and one context for structlog and the standard library."""

from __future__ import annotations

import json
import logging

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from db import logs
from db.settings import Settings


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    """Records of the two kinds of loggers, inside and after a bound context."""
    logs.configure(Settings(log_format="json"))
    log = structlog.get_logger()
    with bound_contextvars(job_id="j", study_id="s"):
        log.info("job.claimed")
        logging.getLogger("a.library").warning("a message")
    logging.getLogger("a.library").warning("a later message")
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_records_inside_a_bound_context_carry_its_ids(lines: list[dict[str, str]]) -> None:
    ours, library, _ = lines

    assert [ours["event"], library["event"]] == ["job.claimed", "a message"]
    for line in (ours, library):
        assert (line["job_id"], line["study_id"]) == ("j", "s")


def test_ids_end_with_their_context(lines: list[dict[str, str]]) -> None:
    assert "job_id" not in lines[-1]


def test_level_filters_both_kinds_of_loggers(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_level="warning"))
    structlog.get_logger().info("job.claimed")
    logging.getLogger("a.library").info("a message")

    assert capsys.readouterr().err == ""


def test_frames_hold_places_and_not_the_text_of_the_error() -> None:
    with pytest.raises(ValueError, match="DOE") as error:
        int("DOE^JANE")

    places = logs.frames(error.value)
    assert [place.endswith("test_frames_hold_places_and_not_the_text_of_the_error") for place in places] == [True]
    assert "DOE" not in str(places)
