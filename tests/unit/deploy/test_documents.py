"""Documents that are generated from the code say what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from setuptools import find_packages

from deploy.operate.settings_table import settings_table

REPOSITORY = Path(__file__).parents[3]


def test_the_readme_lists_every_setting_with_its_default() -> None:
    assert settings_table() in (REPOSITORY / "README.md").read_text()


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    reasons = (REPOSITORY / "docs" / "dependencies.md").read_text()
    names = [requirement.split("=")[0].split("[")[0] for requirement in project["dependencies"]]

    assert [name for name in names if name not in reasons] == []


def test_every_dependency_is_pinned_as_the_lock_has_it() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    locked = {line.lower().replace("_", "-") for line in (REPOSITORY / "constraints.txt").read_text().split()}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    pins = [requirement.split(";")[0].strip().lower() for requirement in wanted]
    pins = [f"{pin.split('[')[0]}{pin.split(']')[1]}" if "[" in pin else pin for pin in pins]

    assert [pin for pin in pins if pin not in locked] == []


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    documents = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]
    links = [
        (document.name, target)
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text())
        if "://" not in target
    ]

    assert [
        (name, target)
        for name, target in links
        if not any((d.parent / target).exists() for d in documents if d.name == name)
    ] == []


def test_every_package_is_in_the_distribution() -> None:
    find = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    top = [pattern.rstrip("*") for pattern in find["include"]]
    found = {
        ".".join(package.parent.relative_to(REPOSITORY).parts)
        for folder in top
        for package in (REPOSITORY / folder).rglob("__init__.py")
    }

    assert set(find_packages(str(REPOSITORY), include=find["include"])) == found
