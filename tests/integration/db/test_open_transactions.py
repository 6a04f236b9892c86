"""The guard of tests/open_transactions.py finds work with files within a transaction."""

from __future__ import annotations

import tempfile
from pathlib import Path

from db.session import statements, transaction
from tests import open_transactions

PRODUCT = f"{open_transactions.REPOSITORY}/deploy/made.py"


def found_by(source: str, database_url: str, opening: object) -> list[str]:
    """Run *source* as code of the product, and return what the guard has noted."""
    names = {"opening": opening, "url": database_url, "folder": Path(tempfile.gettempdir())}
    exec(compile(source, PRODUCT, "exec"), names)
    noted, open_transactions._found[:] = open_transactions._found[:], []
    return noted


def test_file_opened_within_a_transaction_is_noted(database_url: str) -> None:
    source = "with opening(url) as session:\n    session.connection()\n    list(folder.iterdir())"

    [noted] = found_by(source, database_url, transaction)
    assert noted.startswith("os.listdir at deploy/made.py:3 ")


def test_file_opened_after_a_transaction_or_between_statements_is_not(database_url: str) -> None:
    after = "with opening(url) as session:\n    session.connection()\nlist(folder.iterdir())"
    between = "with opening(url) as session:\n    session.connection()\n    list(folder.iterdir())"

    assert found_by(after, database_url, transaction) == []
    assert found_by(between, database_url, statements) == []
