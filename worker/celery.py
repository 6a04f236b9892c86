"""What `celery -A worker` finds; all wiring is in worker.process."""

from db.settings import load_settings
from worker.process import build

app = build(load_settings())
