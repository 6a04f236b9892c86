from __future__ import annotations

from sqlalchemy import select, text

from db.models import Process
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.session import transaction


def test_rows_of_long_dead_processes_are_deleted_except_the_last_of_a_role(database_url: str) -> None:
    with transaction(database_url) as session:
        for role, name in ((Role.WORKER, "a:1"), (Role.WORKER, "a:2"), (Role.LISTENER, "a:3"), (Role.API, "a:4")):
            heartbeats.record(session, role, process=name)
        for name, days in (("a:1", 9), ("a:2", 8), ("a:3", 30)):
            old = text("UPDATE processes SET seen_at = seen_at - make_interval(days => :days) WHERE name = :name")
            session.execute(old, {"days": days, "name": name})

        heartbeats.forget_dead(session)

        assert session.scalars(select(Process.name).order_by(Process.name)).all() == ["a:2", "a:3", "a:4"]
