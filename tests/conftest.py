"""Fixtures of every level of tests."""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from db import session

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

pytest_plugins = ["tests.services", "tests.open_transactions"]

REPOSITORY = Path(__file__).parent.parent
#: Names of the tests' variables in earlier releases, accepted for one more.
OLD_VARIABLES = {"PRELIM_TEST_DATA": "TESTS_DATA_DIR", "PRELIM_REQUIRE_TEST_DATA": "TESTS_REQUIRE_DATA"}

# Before torch is imported: two test processes with a thread per core each would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

for old, new in OLD_VARIABLES.items():
    if old in os.environ:
        os.environ.setdefault(new, os.environ.pop(old))


def pytest_configure() -> None:
    """Remove the settings of a developer's shell: tests, and the processes that they start, would read them.

    Not at the import: processes of tests and benches import this module, too, and have settings on purpose.
    """
    for name in [name for name in os.environ if name.upper().startswith("PRELIM_")]:
        del os.environ[name]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without garbage collection, and exclude what they have imported from the later ones.

    It took a third of the collection: a million objects, of which none is garbage, were examined at each.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the training, which takes longest: started last, it would run alone."""
    items.sort(key=lambda item: "training" not in item.path.parts)


def missing(what: str) -> None:
    """Skip on a developer's machine, fail where absence would hide a fault (CI)."""
    if os.environ.get("TESTS_REQUIRE_DATA") == "1":
        pytest.fail(f"{what} is required here (TESTS_REQUIRE_DATA=1)")
    pytest.skip(f"{what} is not here")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real and odd files that the repository does not contain."""
    folder = Path(os.environ.get("TESTS_DATA_DIR", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "dicom" / "MANIFEST.csv").is_file():
        missing(f"the test data folder {folder}")
    return folder


@pytest.fixture(autouse=True)
def no_server() -> Iterator[None]:
    """Let the test process be no server any more: one ends beside a database whose restore is not complete."""
    yield
    session._process.is_server = False


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Restore logging: a command run in the test process configures it for a stream that is closed afterwards."""
    root = logging.getLogger()
    handlers, level, configuration = root.handlers[:], root.level, structlog.get_config()
    yield
    root.handlers[:], root.level = handlers, level
    structlog.configure(**configuration)
