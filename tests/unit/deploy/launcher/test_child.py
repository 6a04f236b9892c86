from __future__ import annotations

import io

import pytest

from db.errors import ConfigurationError
from deploy.launcher.child import Lines, find_program


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ClosedPipe(io.StringIO):
    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_prefixes_are_as_wide_as_the_longest_name() -> None:
    stream = io.StringIO()
    lines = Lines(["api", "listener"], stream)

    lines.write("api", "hello")
    lines.write("listener", "")

    assert stream.getvalue() == "api      | hello\nlistener | \n"


def test_a_terminal_shows_each_name_in_a_colour_of_its_own() -> None:
    stream = Terminal()
    lines = Lines(["api", "worker"], stream)

    lines.write("api", "hello")
    lines.write("worker", "hello")

    assert stream.getvalue() == "\x1b[36mapi    | \x1b[0mhello\n\x1b[33mworker | \x1b[0mhello\n"


def test_a_reader_that_is_gone_is_no_error() -> None:
    Lines(["api"], ClosedPipe()).write("api", "hello")


def test_a_missing_program_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no program prelim-nowhere"):
        find_program("prelim-nowhere")
