"""The application that `celery -A worker` loads; all wiring is in worker.process."""

import sys

from db.environment import load_settings
from db.errors import ConfigurationError
from db.settings import Settings
from worker.process import Writer, build


def _load(settings: Settings) -> Writer:
    # Importing torch takes seconds: not before the settings have been checked, and never for `celery inspect`.
    from worker.resident import Resident  # noqa: PLC0415 - see above

    return Resident.load(settings)


try:
    app = build(load_settings(), _load)
except ConfigurationError as error:
    # Celery shows any other error with fifty lines of traceback around it.
    sys.stderr.write(f"error: {error}\n")
    raise SystemExit(2) from None
