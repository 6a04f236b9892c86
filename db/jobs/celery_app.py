"""Celery application and its one message, the wake-up.

A message carries the UUID of a job and nothing else, and a task returns nothing, because Redis and Flower show both.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from db.jobs import redis_client
from db.jobs.outages import Outage

if TYPE_CHECKING:
    import uuid

    from db.settings import Settings

#: Errors of an unreachable broker: kombu wraps most of Redis's errors, not all.
BROKER_ERRORS = (BrokerError, RedisError)
#: A message wakes a worker for a job of any kind.
JOB_TASK = "prelim.job"
QUEUE = "prelim"
#: Seconds until an unreachable Redis is noticed; kombu's default has no limit.
SOCKET_SECONDS = 5
#: Seconds for which the key of a probe is kept.
PROBE_SECONDS = 60
#: Seconds of kombu's lease on a message: longer than any report, because the job's lease is in Postgres.
VISIBILITY_SECONDS = 3600


class App(Celery):  # type: ignore[misc] # Celery has no types
    """Celery application with the state of its broker: `outage`."""

    def __init__(self, broker_url: str) -> None:
        super().__init__("prelim", broker=redis_client.kombu_url(broker_url), set_as_current=False)
        self.outage = Outage()
        self._credentials = redis_client.secret_file(broker_url)

    def _connection(self, *args: Any, **more: Any) -> Any:
        """Return a connection of kombu whose password may be rotated; Celery passes on no credentials."""
        connection = super()._connection(*args, **more)
        connection.credential_provider = self._credentials
        return connection


def make_app(broker_url: str) -> App:
    """Return a Celery application without result backend, with JSON messages and one prefetched message per slot."""
    app = App(broker_url)
    app.conf.update(
        task_default_queue=QUEUE,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        # Early: the fence makes late acknowledgement unnecessary, and Redis keeps no unacked messages.
        task_acks_late=False,
        # Concerns late acknowledgement only; its default warns at each lost connection.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        worker_prefetch_multiplier=1,
        task_serializer="json",
        accept_content=["json"],
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        task_send_sent_event=True,
        broker_connection_retry_on_startup=True,
        # Without limit, and also after a refused command: the process holds a model that takes minutes to load.
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        worker_consumer="db.jobs.consumer:PausingConsumer",
        broker_transport_options={
            # kombu would pause for 2, then 4 s before it raises, and block its caller.
            "max_retries": 0,
            "visibility_timeout": VISIBILITY_SECONDS,
            "socket_timeout": SOCKET_SECONDS,
            "socket_connect_timeout": SOCKET_SECONDS,
            "socket_keepalive": True,
            **redis_client.kombu_options(broker_url, SOCKET_SECONDS),
        },
    )
    return app


def worker_arguments(settings: Settings) -> list[str]:
    """Return the arguments of Celery's command for a worker that runs in this process.

    The node name has the host name and process id of its heartbeat, so that Flower shows each worker of a host.
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


def send(app: App, job_id: uuid.UUID) -> bool:
    """Send the wake-up message of a job; return whether Redis accepted it. During an outage, only some are tried."""
    if app.outage.resting:
        return False
    try:
        app.send_task(JOB_TASK, args=[str(job_id)], retry=False)
    except BROKER_ERRORS as error:
        app.outage.failed(error)
        return False
    app.outage.succeeded()
    return True


def depth(app: App) -> int:
    """Count the messages in Redis; raises one of BROKER_ERRORS if it is unreachable."""
    with app.pool.acquire(block=True) as connection:
        channel: Any = connection.default_channel
        return int(channel.client.llen(QUEUE))


def probe(app: App) -> bool:
    """Write a key, to find out whether Redis accepts writes: a full or demoted one answers reads."""
    try:
        with app.pool.acquire(block=True) as connection:
            channel: Any = connection.default_channel
            channel.client.set(f"{QUEUE}.probe", 1, ex=PROBE_SECONDS)
    except BROKER_ERRORS as error:
        app.outage.failed(error)
        return False
    app.outage.succeeded()
    return True
