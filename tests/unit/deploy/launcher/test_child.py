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


def test_prefixes_are_padded_to_the_longest_name() -> None:
    stream = io.StringIO()
    lines = Lines(["api", "listener"], stream)

    lines.write("api", "hello")
    lines.write("listener", "")

    assert stream.getvalue() == "api      | hello\nlistener | \n"


def test_each_name_has_its_own_colour_on_a_terminal() -> None:
    stream = Terminal()
    lines = Lines(["api", "worker"], stream)

    lines.write("api", "hello")
    lines.write("worker", "hello")

    assert stream.getvalue() == "\x1b[36mapi    | \x1b[0mhello\n\x1b[33mworker | \x1b[0mhello\n"


def test_closed_pipe_is_ignored() -> None:
    Lines(["api"], ClosedPipe()).write("api", "hello")


def test_error_names_a_missing_program() -> None:
    with pytest.raises(ConfigurationError, match="program not found: prelim-nowhere"):
        find_program("prelim-nowhere")
