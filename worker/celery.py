"""What `celery -A worker` finds; all wiring is in worker.tasks."""

from worker.tasks import app

__all__ = ["app"]
