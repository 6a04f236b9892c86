"""Celery application and its one message, the wake-up.

A message carries the UUID of a job and nothing else, and a task returns nothing, because Redis and Flower show both.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

if TYPE_CHECKING:
    import uuid

    from db.settings import Settings

log = structlog.get_logger()

#: Errors of an unreachable broker: kombu wraps most of Redis's errors, not all.
BROKER_ERRORS = (BrokerError, RedisError)
REPORT_TASK = "prelim.report"
QUEUE = "prelim"
#: Seconds until an unreachable Redis is noticed; kombu's default has no limit.
SOCKET_SECONDS = 5
#: Seconds of kombu's lease on a message: longer than any report, because the job's lease is in Postgres.
VISIBILITY_SECONDS = 3600


def make_app(broker_url: str) -> Celery:
    """Return a Celery application without result backend, with JSON messages and one prefetched message per slot."""
    app = Celery("prelim", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # Early: the fence makes late acknowledgement unnecessary, and Redis keeps no unacked messages.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        task_serializer="json",
        accept_content=["json"],
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        task_send_sent_event=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            # kombu would pause for 2, then 4 s before it raises, and block its caller.
            "max_retries": 0,
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "socket_keepalive": True,
        },
    )
    return app


def worker_arguments(settings: Settings) -> list[str]:
    """Return the arguments of Celery's command for a worker that runs in this process.

    The node name has the host name and process id of its heartbeat, so that Flower tells the workers of a host apart.
    """
    return [
        "worker",
        "--pool=threads",
        f"--concurrency={settings.queue.worker_slots}",
        f"--hostname=prelim-{os.getpid()}@{socket.gethostname()}",
        f"--loglevel={settings.operations.log_level}",
        "--without-mingle",
        "--without-gossip",
    ]


def send(app: Celery, job_id: uuid.UUID) -> bool:
    """Send the wake-up message of a job; return whether Redis accepted it."""
    try:
        app.send_task(REPORT_TASK, args=[str(job_id)], retry=False)
    except BROKER_ERRORS as error:
        log.warning("broker.unreachable", error=type(error).__name__)
        return False
    return True


def depth(app: Celery) -> int:
    """Count the messages in Redis; raises one of BROKER_ERRORS if it is unreachable."""
    with app.pool.acquire(block=True) as connection:
        channel: Any = connection.default_channel
        return int(channel.client.llen(QUEUE))
