"""What `celery -A worker` finds; all wiring is in worker.process."""

import sys

from db.errors import ConfigurationError
from db.settings import load_settings
from worker.process import build
from worker.resident import Resident

try:
    app = build(load_settings(), Resident.load)
except ConfigurationError as error:
    # Celery shows any other error with fifty lines of traceback around it.
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(2) from None
