"""An administrator of the database forges the audit log by hand: what finds it, and what only kept heads find."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select, text

from db.access import audit_log
from db.models import AuditRow
from db.session import transaction
from db.settings import Settings
from deploy.operate.audit_log import actions
from tests.integration.api.access.test_audit_log import appended, problems

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sqlalchemy.orm import Session


def forging(session: Session) -> None:
    """Let this transaction change the log, as an administrator of the database can."""
    session.execute(text("SET LOCAL session_replication_role = replica"))


def sealed_again(session: Session, chain: int, **changes: object) -> None:
    """Change the second row of a chain, and give it and the later ones the hashes that belong to that."""
    rows = session.scalars(select(AuditRow).where(AuditRow.chain == chain).order_by(AuditRow.sequence)).all()
    for name, value in changes.items():
        setattr(rows[1], name, value)
    for before, row in pairwise(rows):
        row.previous = before.hash
        row.hash = audit_log.digest(audit_log._content(row))
    session.flush()


def executed(statement: str) -> Callable[[Session], object]:
    return lambda session: session.execute(text(statement))


COPY = """
    INSERT INTO audit_rows SELECT chain, 4, at, action, status, 'key b', address, route, studies, detail, hash, hash
    FROM audit_rows WHERE chain = 1 AND sequence = 3
"""
#: Forgeries by hand of three chains with three rows, three rows and one row, and what finds each.
FORGERIES: dict[str, tuple[Callable[[Session], object], list[str]]] = {
    "row changed": (
        executed("UPDATE audit_rows SET principal = 'key b' WHERE chain = 3"),
        ["chain 3, row 1: changed"],
    ),
    "row changed, with all later hashes": (
        lambda session: sealed_again(session, 1, principal="key b"),
        ["chain 1, row 3: not the row that a later record names"],
    ),
    "row removed": (
        executed("DELETE FROM audit_rows WHERE chain = 2 AND sequence = 2"),
        ["chain 2, row 3: a row before it is missing or was changed"],
    ),
    "row inserted": (executed(COPY), ["chain 1, row 4: changed"]),
    "first row cut": (
        executed("DELETE FROM audit_rows WHERE chain = 1 AND sequence = 1"),
        ["chain 1, row 2: a row before it is missing or was changed"],
    ),
    "last rows of an earlier chain cut": (
        executed("DELETE FROM audit_rows WHERE chain = 1 AND sequence > 1"),
        ["chain 1: row 3 and its later rows are missing"],
    ),
    "start of an earlier chain removed": (
        executed("DELETE FROM audit_rows WHERE chain = 2; DELETE FROM audit_chains WHERE number = 2"),
        [
            "start of chain 3: changed, or a start before it is missing",
            "chain 2: row 3 and its later rows are missing",
        ],
    ),
    "start of the newest chain removed": (
        executed("DELETE FROM audit_chains WHERE number = 3"),
        ["chain 3: its start is missing"],
    ),
    # In the database alone nothing tells: kept heads, or an audit record repository, do.
    "last rows of the newest chain cut": (executed("DELETE FROM audit_rows WHERE chain = 3"), []),
    "newest chain cut": (
        executed("DELETE FROM audit_rows WHERE chain = 3; DELETE FROM audit_chains WHERE number = 3"),
        [],
    ),
    "row of the newest chain changed, with its hash": (lambda session: sealed_again(session, 4, status=404), []),
}


def test_each_forgery_by_hand_is_found(database_url: str) -> None:
    for count in (3, 3, 1):
        appended(database_url, count)
    found, with_heads = {}, {}
    for name, (forge, _) in FORGERIES.items():
        if "with its hash" in name:
            appended(database_url, 2)
        with transaction(database_url) as session:
            known = audit_log.verify(session).heads
            forging(session)
            forge(session)
            found[name] = audit_log.verify(session).problems
            with_heads[name] = bool(audit_log.verify(session, known).problems)
            session.rollback()

    assert found == {name: problems for name, (_, problems) in FORGERIES.items()}
    assert with_heads == dict.fromkeys(FORGERIES, True)
    assert problems(database_url) == []


def test_command_prints_each_problem_and_fails(database_url: str, tmp_path: Path) -> None:
    appended(database_url, 2)
    settings = Settings(data_dir=tmp_path, database_url=SecretStr(database_url))
    console = Console(record=True, quiet=False, width=200)
    whole = actions.verify(settings, console, None)
    (tmp_path / "heads.json").write_text(console.export_text().splitlines()[-1])
    with transaction(database_url) as session:
        forging(session)
        session.execute(text("DELETE FROM audit_rows WHERE sequence = 2"))
    cut = actions.verify(settings, console, None)
    printed = console.export_text()
    known = actions.verify(settings, console, tmp_path / "heads.json")

    assert (whole, cut, known) == (True, True, False)
    assert "problem:" not in printed
    assert "problem: chain 1: row 2 and its later rows are missing" in console.export_text()
