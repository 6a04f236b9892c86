from __future__ import annotations

import os
import socket

from db.operations import heartbeats
from db.operations.heartbeats import Role
from db.session import transaction
from db.settings import Settings
from deploy.launcher.processes import has_heartbeat


def test_worker_is_ready_once_its_own_heartbeat_is_stored(database_url: str) -> None:
    settings = Settings(database_url=database_url)
    before = has_heartbeat(Role.WORKER)(settings, None)
    with transaction(database_url) as session:
        heartbeats.record(session, Role.WORKER)

    assert not before
    assert has_heartbeat(Role.WORKER)(settings, None)
    assert has_heartbeat(Role.WORKER)(settings, os.getpid())
    assert not has_heartbeat(Role.WORKER)(settings, os.getpid() + 1), f"another process of {socket.gethostname()}"
    assert not has_heartbeat(Role.DISPATCHER)(settings, None)
