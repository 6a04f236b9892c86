"""Connections to a database that goes away and comes back, and the two ways to commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest
from sqlalchemy import text

from db import session as database
from db.session import statements, transaction

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy.orm import Session


def backend(url: str) -> int:
    with transaction(url) as session:
        return int(session.scalar(text("SELECT pg_backend_pid()")) or 0)


def end_backend(url: str, pid: int) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def test_a_connection_that_the_server_ended_meanwhile_costs_no_failed_run(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "TRUSTED_SECONDS", 0)
    ended = backend(database_url)
    end_backend(database_url, ended)

    assert backend(database_url) != ended


def test_a_connection_is_used_again(database_url: str) -> None:
    assert backend(database_url) == backend(database_url)


def break_off(opened: AbstractContextManager[Session], words: str) -> None:
    with opened as session:
        session.execute(text(words))
        raise LookupError


def test_what_is_left_by_an_exception_is_rolled_back(database_url: str) -> None:
    with pytest.raises(LookupError):
        break_off(transaction(database_url), "CREATE TABLE left_over ()")

    assert not exists(database_url, "left_over")


def test_each_of_the_statements_is_committed_by_itself(database_url: str) -> None:
    with pytest.raises(LookupError):
        break_off(statements(database_url), "CREATE TABLE kept ()")
    assert exists(database_url, "kept")

    with pytest.raises(LookupError):
        break_off(transaction(database_url), "DROP TABLE kept")
    assert exists(database_url, "kept"), "the connection forgot to go back to transactions"


def exists(url: str, table: str) -> bool:
    with transaction(url) as session:
        return session.scalar(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": table}) is True
