"""`prelim status --watch` shows the state again and again."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from db.settings import Settings
from deploy.operate import status
from tests.integration.db.conftest import Arrivals


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_shows_changes_until_it_is_interrupted(database_url: str, *, terminal: bool) -> None:
    arrivals, printed = Arrivals(database_url), io.StringIO()
    steps = iter((arrivals.image, arrivals.settle))

    def pause() -> None:
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    console = Console(file=printed, width=200, force_terminal=terminal)
    status.watch(Settings(database_url=database_url), console, pause)

    assert "0 jobs queued" in printed.getvalue()
    assert "1 jobs queued" in printed.getvalue()
    assert "ended in the last hour: nothing" in printed.getvalue()


def test_watch_shows_an_unreachable_database_and_tries_again() -> None:
    printed = io.StringIO()
    pauses = iter((None,))

    def pause() -> None:
        if next(pauses, 0) == 0:
            raise KeyboardInterrupt

    url = "postgresql+psycopg://user:hidden@127.0.0.1:1/name"
    status.watch(Settings(database_url=url), Console(file=printed, width=200, force_terminal=True), pause)

    assert printed.getvalue().count("database unreachable") >= 2
    assert "hidden" not in printed.getvalue()
