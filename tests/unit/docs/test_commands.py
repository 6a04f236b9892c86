"""Every `prelim ...` command line that a document or the program names can be parsed by `prelim`."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
from typer._click.exceptions import UsageError

from deploy.cli.app import app
from tests.unit.docs.test_documents import CURRENT, REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCES = ("api", "db", "deploy", "dicom_listener", "worker")
#: A word for a value that the reader fills in, such as STUDY or ID, and that of a value the program fills in.
PLACEHOLDER, FILLED_IN = re.compile(r"[A-Z][A-Z_0-9]*"), "VALUE"
#: Shell operators, at which a command ends.
OPERATORS = {"|", ">", "<", "&&", "||", ";", "&"}
PRELIM: Any = typer.main.get_command(app)


def in_text(document: Path) -> Iterator[str]:
    """Yield the commands in code spans and code blocks of a document."""
    text = document.read_text()
    blocks = re.findall(r"^```.*?^```", text, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^ {4}.*\n)+", prose, flags=re.MULTILINE)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        # After kubectl, `prelim` is also the name of a namespace.
        begin = r"\s--\s" if "kubectl" in line else r"(?:^|[\s/])"
        if found := re.search(rf"{begin}prelim (.*)", line.split(" #")[0]):
            yield found[1]
    yield from re.findall(r"`prelim\s([^`]+)`", prose)


def in_program(file: Path) -> Iterator[str]:
    """Yield the commands in texts of a module; what it fills in becomes a placeholder."""
    tree = ast.parse(file.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        elif isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else FILLED_IN for part in node.values)
        else:
            continue
        yield from re.findall(r"`prelim\s([^`]+)`", text)


def alternatives(command: str) -> Iterator[list[str]]:
    """Yield the words of a command, once for each of its alternatives `a|b`; optional words are included."""
    words = list(itertools.takewhile(lambda word: word not in OPERATORS, shlex.split(re.sub(r"\s+", " ", command))))
    plain = [word.strip("[]").removesuffix("...") for word in words]
    yield from map(list, itertools.product(*(word.split("|") if " " not in word else [word] for word in plain)))


def problem(words: list[str]) -> str | None:
    """Return why `prelim` does not accept these words, None if it does; a mention may lack values and arguments."""
    command, context = PRELIM, PRELIM.context_class(PRELIM, info_name="prelim")
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] == FILLED_IN:
            return None
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
        context = command.context_class(command, info_name=command.name, parent=context)
    try:
        values, rest, _ = command.make_parser(context).parse_args(args=[*words])
        for param in command.get_params(context):
            check(param, values.get(param.name), context)
    except UsageError as error:
        # The mention of an option, without its value.
        missing = words and words[-1].startswith("--") and "requires an argument" in error.format_message()
        return None if missing else error.format_message()
    return f"unexpected {rest}" if rest else None


def check(param: Any, given: Any, context: Any) -> None:
    """Raise UsageError if a value is not of the type of its parameter; files need not exist."""
    values = given if isinstance(given, (list, tuple)) else [given]
    is_open = any(not isinstance(value, str) or PLACEHOLDER.fullmatch(value) for value in values)
    if not is_open and not param.type_descriptor.is_path:
        param.get_runtime_param().coerce(given, param=param, ctx=context)


def problems(commands: Iterator[str]) -> list[tuple[str, str]]:
    found = ((command, problem(words)) for command in commands for words in alternatives(command))
    return [(command, cause) for command, cause in found if cause]


@pytest.mark.parametrize("document", CURRENT, ids=[str(path.relative_to(REPOSITORY)) for path in CURRENT])
def test_every_command_of_a_document_can_be_parsed(document: Path) -> None:
    assert problems(in_text(document)) == []


@pytest.mark.parametrize("folder", SOURCES)
def test_every_command_that_the_program_names_can_be_parsed(folder: str) -> None:
    files = sorted((REPOSITORY / folder).rglob("*.py"))

    assert [(file.name, *each) for file in files for each in problems(in_program(file))] == []


def test_commands_are_found_in_documents_and_in_the_program() -> None:
    runbook = set(in_text(REPOSITORY / "docs" / "operate.md"))

    assert {"retry --reason REASON", "status"} < runbook
    assert any("list --state failed --since 3d" in command for command in runbook)
    assert "migrate" in set(in_program(REPOSITORY / "deploy/operate/doctor/database_content.py"))


@pytest.mark.parametrize(
    "command",
    [
        "stauts",
        "key make NAME",
        "status --wach",
        "echo --port many",
        "retain --older-than soon",
        "trace STUDY OTHER",
        "plan --studies many",
    ],
)
def test_command_that_does_not_exist_is_found(command: str) -> None:
    assert problems(iter([command])) != []
