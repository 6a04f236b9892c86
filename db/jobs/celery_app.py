"""The Celery application and its one message: "look at this job".

A message carries a job's UUID and nothing else, and a task returns nothing, because Redis and Flower show both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

if TYPE_CHECKING:
    import uuid

log = structlog.get_logger()

#: A broker that does not answer. kombu hides most of Redis's own errors, not all.
BROKER_ERRORS = (BrokerError, RedisError)
REPORT_TASK = "prelim.report"
QUEUE = "prelim"
#: Seconds until a dead Redis is noticed; kombu would wait for ever.
SOCKET_SECONDS = 5
#: kombu's lease on a message. Ours is in Postgres, so this one only has to be longer than any report.
VISIBILITY_SECONDS = 3600


def make_app(broker_url: str) -> Celery:
    """A Celery application without result backend, JSON only, one message at a time for each slot."""
    app = Celery("prelim", broker=broker_url, set_as_current=False)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # Early or late acknowledgement: the fence decides. Early spares Redis the unacked bookkeeping.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        task_serializer="json",
        accept_content=["json"],
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        task_send_sent_event=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            # Or kombu pauses for 2, then 4 s, before it says that Redis is away, and whoever asked waits with it.
            "max_retries": 0,
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "socket_keepalive": True,
        },
    )
    return app


def send(app: Celery, job_id: uuid.UUID) -> bool:
    """Send the nudge for one job; returns whether Redis took it."""
    try:
        app.send_task(REPORT_TASK, args=[str(job_id)], retry=False)
    except BROKER_ERRORS as error:
        log.warning("broker.unreachable", why=type(error).__name__)
        return False
    return True


def depth(app: Celery) -> int:
    """How many messages wait in Redis; raises one of BROKER_ERRORS where it does not answer."""
    with app.pool.acquire(block=True) as connection:
        channel: Any = connection.default_channel
        return int(channel.client.llen(QUEUE))
