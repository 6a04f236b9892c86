"""Connections to a restarted server, and the two ways to commit."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import text

from db import session as database
from db.connection import Connection
from db.session import engine, statements, transaction
from tests import together

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy.orm import Session


def backend(url: str) -> int:
    with transaction(url) as session:
        return int(session.scalar(text("SELECT pg_backend_pid()")) or 0)


def end_backend(url: str, pid: int) -> None:
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])


def test_connection_closed_by_the_server_is_replaced(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "UNCHECKED_SECONDS", 0)
    ended = backend(database_url)
    end_backend(database_url, ended)

    assert backend(database_url) != ended


def test_connection_whose_first_statements_are_refused_is_closed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[Connection]()
    monkeypatch.setattr(Connection, "limit", lambda self, *_, **__: (opened.append(self), self.execute("SELECT 1 / 0")))

    with pytest.raises(psycopg.errors.DivisionByZero):
        database.connect(database_url)

    assert opened[0].closed


def test_threads_that_begin_together_share_one_engine(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, create_engine = list[Any](), database.create_engine

    def create_slowly(*arguments: Any, **more: Any) -> Any:
        made.append(create_engine(*arguments, **more))
        time.sleep(0.2)
        return made[-1]

    monkeypatch.setattr(database, "create_engine", create_slowly)
    found = together.called(lambda: engine(f"{database_url}?application_name=together"))

    assert {id(one) for one in found} == {id(one) for one in made}
    assert len(made) == 1


def test_connection_is_reused(database_url: str) -> None:
    assert backend(database_url) == backend(database_url)


def break_off(opened: AbstractContextManager[Session], words: str) -> None:
    with opened as session:
        session.execute(text(words))
        raise LookupError


def test_exception_rolls_a_transaction_back(database_url: str) -> None:
    with pytest.raises(LookupError):
        break_off(transaction(database_url), "CREATE TABLE left_over ()")

    assert not exists(database_url, "left_over")


def test_each_statement_is_committed_by_itself(database_url: str) -> None:
    with pytest.raises(LookupError):
        break_off(statements(database_url), "CREATE TABLE kept ()")
    assert exists(database_url, "kept")

    with pytest.raises(LookupError):
        break_off(transaction(database_url), "DROP TABLE kept")
    assert exists(database_url, "kept"), "the connection is still in autocommit mode"


def exists(url: str, table: str) -> bool:
    with transaction(url) as session:
        return session.scalar(text("SELECT to_regclass(:name) IS NOT NULL"), {"name": table}) is True
