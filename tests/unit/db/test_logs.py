"""Log records: one format and one context for structlog and the standard library."""

from __future__ import annotations

import json
import logging
import threading

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


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_text_of_a_peer_cannot_split_hide_or_colour_a_line(capsys: pytest.CaptureFixture[str], log_format: str) -> None:
    logs.configure(Settings(log_format=log_format))
    hostile = "CT\r\n2026 [info] forged\x1b[2J\u202egnp\u2028\x00\x7f"
    structlog.get_logger().info("association.rejected", calling_ae_title=hostile)
    logging.getLogger("a.library").warning("peer %s", hostile)

    lines = capsys.readouterr().err.splitlines()
    assert [line.isprintable() for line in lines] == [True, True]
    assert all("forged" in line for line in lines)


def test_traceback_keeps_its_lines_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings())
    try:
        int("\x1b[31mred")
    except ValueError:
        structlog.get_logger().exception("attempt.failed")

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3
    assert all(line.isprintable() for line in lines)


def test_unexpected_end_of_a_thread_is_logged_without_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.excepthook
    logs.configure(Settings())
    try:
        thread = threading.Thread(target=int, args=["DOE^JANE"], name="loop")
        thread.start()
        thread.join()
    finally:
        threading.excepthook = before

    written = capsys.readouterr().err
    assert "thread.failed" in written
    assert "DOE" not in written


def test_libraries_that_quote_values_write_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(Settings(log_level="debug"))
    for name in ("pynetdicom.acse", "pynetdicom.events", "pydicom", "py.warnings"):
        logging.getLogger(name).error("Patient's Name DOE^JANE")

    assert capsys.readouterr().err == ""
