"""The tree keeps its shape: small folders, one sentence a folder, one meaning a module name, plain docstrings."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
ROOTS = ("api", "db", "deploy", "dicom_listener", "worker")
PATHS = sorted(path.relative_to(REPOSITORY) for root in ROOTS for path in (REPOSITORY / root).rglob("*.py"))
#: Alembic names migrations by number.
MODULES = [path for path in PATHS if path.parent.name != "versions"]
PACKAGES = [path for path in MODULES if path.name == "__init__.py"]

MAX_MODULES = 15
MAX_LINES = 300
#: Names that stand twice because they mean the same in both places.
SAME_MEANING = {
    "answers": "inquiries and their answers: their tables, the queries on them",
    "access": "who may use the API: its rules, its keys, their table",
    "app": "the application object of FastAPI, and of Typer",
    "audit_log": "the log of reads of patient data: its chains, its commands, their implementation",
    "backup": "backups: the commands for them, their implementation",
    "certificates": "certificates of verdicts: their table, and the queries on it",
    "commitments": "storage commitment: its table, and the queries on it",
    "dicom": "DICOM definitions, and the commands for DICOM peers",
    "elements": "a reader of DICOM data elements; docs/decisions/header-walkers.md says why there are two",
    "errors": "error types of a package",
    "feedback": "feedback of readers: its table, the queries on it, its routes",
    "grounds": "what a report's findings rest on: its tables, the queries on them, its computation",
    "identity": "the identity of a study: its comparison, its routes, its command",
    "inquiries": "questions and choices between diagnoses: the queries on them, their routes, their commands",
    "jobs": "the job protocol, and its table",
    "metrics": "figures for Prometheus, and the engine's part of them",
    "model": "the model, and the commands for it",
    "object_storage": "the object storage: its settings, its checks",
    "operate": "the operator's commands, and what they run",
    "operations": "what operations ask, and the tables for it",
    "predictions": "predictions of specialist models: the queries on them, their routes",
    "procedure_steps": "performed procedure steps: their table, and the queries on it",
    "quarantine": "files in quarantine: the queries on them, their route",
    "reference": "reference cases and snapshots: their tables, and the queries on them",
    "reports": "report versions, and their tables",
    "rules": "the rules of tasks, and the commands for them",
    "sender": "a process that sends rows of the database: of the audit log, of ended jobs",
    "studies": "the life of a study, its table, its routes",
}
#: First words that make a docstring a riddle: the contract starts with a verb or a noun.
RELATIVE = {"What", "Whether", "How", "Where", "Which", "Who", "Whom", "Whose", "Of", "When", "Why", "So"}


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse((REPOSITORY / path).read_text())) or ""


def documented(path: Path) -> list[tuple[str, str]]:
    """Every docstring of a module with its place."""
    tree = ast.parse((REPOSITORY / path).read_text())
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
    return [(f"{path}:{getattr(node, 'lineno', 1)}", text) for node in nodes if (text := ast.get_docstring(node))]


def test_a_folder_holds_at_most_fifteen_modules() -> None:
    modules = Counter(path.parent for path in MODULES if path.name != "__init__.py")

    assert {folder: count for folder, count in modules.items() if count > MAX_MODULES} == {}


def test_a_folder_says_in_one_sentence_what_happens_there() -> None:
    first_lines = {path: docstring(path).split("\n\n")[0] for path in PACKAGES}

    assert [path for path, sentence in first_lines.items() if not sentence.endswith(".")] == []


def test_a_file_has_at_most_300_lines() -> None:
    lines = {path: len((REPOSITORY / path).read_text().splitlines()) for path in MODULES}

    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_a_module_name_has_one_meaning() -> None:
    places = defaultdict(set)
    for path in MODULES:
        named = path.parent if path.name == "__init__.py" else path.with_suffix("")
        # A package and its principal module share a name.
        places[named.name].add(named.parent if named.parent.name == named.name else named)
    repeated = {name for name, paths in places.items() if len(paths) > 1}

    assert repeated == set(SAME_MEANING)


def test_migrations_are_numbered_in_one_line() -> None:
    # Two branches that took the same number are merged without a conflict.
    files = [path for path in PATHS if path.parent.name == "versions" and path.name != "__init__.py"]
    numbers = [path.name[:4] for path in files]
    named = [
        re.findall(r'^(?:down_)?revision = (?:"(\d+)"|None)$', (REPOSITORY / path).read_text(), re.MULTILINE)
        for path in files
    ]

    assert named == [[number, before] for before, number in zip(["", *numbers], numbers, strict=False)]


def test_a_docstring_starts_with_a_verb_or_a_noun() -> None:
    starts = [(place, text.split()[0]) for path in MODULES for place, text in documented(path)]

    assert [place for place, word in starts if word in RELATIVE] == []
