from __future__ import annotations

from sqlalchemy import select, text

from db.models import Process
from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.session import transaction


def test_first_heartbeat_after_a_rollback_begins_the_process_anew(database_url: str) -> None:
    started = select(Process.started_at).where(Process.name == "container:1")
    with transaction(database_url) as session:
        session.add(Process(name="container:1", role=Role.WORKER, info={}))
    with transaction(database_url) as session:
        earlier = session.scalars(started).one()
        heartbeats.record(session, Role.WORKER, process="container:1")
        session.rollback()
    with transaction(database_url) as session:
        heartbeats.record(session, Role.WORKER, process="container:1")
    with transaction(database_url) as session:
        began = session.scalars(started).one()
        heartbeats.record(session, Role.WORKER, process="container:1")

        assert session.scalars(started).one() == began > earlier


def test_rows_of_long_dead_processes_are_deleted_except_the_last_of_a_role(database_url: str) -> None:
    with transaction(database_url) as session:
        for role, name in ((Role.WORKER, "a:1"), (Role.WORKER, "a:2"), (Role.LISTENER, "a:3"), (Role.API, "a:4")):
            heartbeats.record(session, role, process=name)
        for name, days in (("a:1", 9), ("a:2", 8), ("a:3", 30)):
            old = text("UPDATE processes SET seen_at = seen_at - make_interval(days => :days) WHERE name = :name")
            session.execute(old, {"days": days, "name": name})

        heartbeats.forget_dead(session)

        assert session.scalars(select(Process.name).order_by(Process.name)).all() == ["a:2", "a:3", "a:4"]
