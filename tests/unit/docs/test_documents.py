"""Documents agree with the code: links, quoted files and tests, generated tables, dependencies."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from setuptools import find_packages

from tests.documents import PARTS, with_part

REPOSITORY = Path(__file__).parents[3]
FOLDERS = ("api", "db", "deploy", "dicom_listener", "docs", "tests", "worker")
DOCUMENTS = sorted(
    document
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", ".github/**/*.md")
    for document in REPOSITORY.glob(pattern)
)
#: Dated records keep the names of their day.
CURRENT = [
    document
    for document in DOCUMENTS
    if document.parent.name != "measurements" and document.name not in {"CHANGELOG.md", "glossary.md"}
]
NAMES = [str(document.relative_to(REPOSITORY)) for document in DOCUMENTS]
CURRENT_NAMES = [str(document.relative_to(REPOSITORY)) for document in CURRENT]


def prose(document: Path) -> str:
    """Return the text of *document* without its code blocks."""
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return the anchors that a repository host makes for the headings of *document*."""
    headings = re.findall(r"^#+ +(.*)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_broken(document: Path, link: str) -> bool:
    target, _, anchor = link.partition("#")
    file = document.parent / target if target else document
    return not file.exists() or (bool(anchor) and anchor not in anchors(file))


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_relative_link_has_a_target(document: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)) if "://" not in link]

    assert [link for link in links if is_broken(document, link)] == []


@pytest.mark.parametrize("document", CURRENT, ids=CURRENT_NAMES)
def test_every_quoted_file_exists(document: Path) -> None:
    paths = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)`", document.read_text())

    assert [path for path in paths if not (REPOSITORY / path).exists()] == []


@pytest.mark.parametrize("document", CURRENT, ids=CURRENT_NAMES)
def test_every_quoted_test_exists(document: Path) -> None:
    quoted = set(re.findall(r"`(test_\w+)`", document.read_text()))
    existing = {
        name
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), flags=re.MULTILINE)
    }

    assert quoted - existing == set()


@pytest.mark.parametrize(("document", "name"), PARTS)
def test_a_generated_part_is_up_to_date(document: str, name: str) -> None:
    text = (REPOSITORY / document).read_text()

    assert with_part(text, name, PARTS[document, name]()) == text, "run `make docs`"


def test_every_decision_is_in_the_index() -> None:
    decisions = REPOSITORY / "docs" / "decisions"
    listed = set(re.findall(r"\]\((\w[\w-]*\.md)\)", (decisions / "README.md").read_text()))

    assert listed == {page.name for page in decisions.glob("*.md")} - {"README.md"}


def test_the_readme_links_every_page() -> None:
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)[)#]", (REPOSITORY / "README.md").read_text()))

    assert {page.name for page in (REPOSITORY / "docs").glob("*.md")} - linked == set()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    reasons, extras = (REPOSITORY / "docs" / "dependencies.md").read_text(), project["optional-dependencies"]
    wanted = [
        *project["dependencies"],
        *(each for extra in ("worker", "embedded", "evaluate", "otel") for each in extras[extra]),
    ]
    names = [requirement.split("=")[0].split("[")[0] for requirement in wanted]

    assert [name for name in names if name not in reasons] == []


def test_every_dependency_is_pinned_as_the_lock_has_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    locked = {line.lower().replace("_", "-") for line in (REPOSITORY / "constraints.txt").read_text().split()}
    extras = project["optional-dependencies"]
    # An extra includes others by the name of this project.
    wanted = [*project["dependencies"], *(w for extra in extras.values() for w in extra if not w.startswith("prelim["))]
    pins = [requirement.split(";")[0].strip().lower() for requirement in wanted]
    pins = [f"{pin.split('[')[0]}{pin.split(']')[1]}" if "[" in pin else pin for pin in pins]

    assert [pin for pin in pins if pin not in locked] == []


def test_every_package_is_in_the_distribution() -> None:
    find = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    top = [pattern.rstrip("*") for pattern in find["include"]]
    found = {
        ".".join(package.parent.relative_to(REPOSITORY).parts)
        for folder in top
        for package in (REPOSITORY / folder).rglob("__init__.py")
    }

    assert set(find_packages(str(REPOSITORY), include=find["include"])) == found
