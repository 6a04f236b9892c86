"""What `celery -A worker` finds; all wiring is in worker.process."""

from db.settings import load_settings
from worker.process import build
from worker.resident import Resident

app = build(load_settings(), Resident.load)
