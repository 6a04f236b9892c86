"""Open an interactive Python console with a session on the configured database (`make shell STUDY=...`)."""

from __future__ import annotations

import code
import contextlib
import sys
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from db import models
from db.environment import load_settings
from db.errors import PrelimError
from db.limits import SessionLimits
from db.reports import versions
from db.session import engine
from db.studies import lifecycle

#: Its user thinks between two statements, but not while others wait for its locks.
LIMITS = SessionLimits(statement=300, lock=3, idle=0)
LOCKED_SECONDS = 5
BANNER = (
    f"session.commit() stores changes, within {LOCKED_SECONDS} s after they were sent to the database; Ctrl-D discards"
    " uncommitted changes and exits"
)


def run(name: str | None = None) -> None:
    """Interact until end of input; *name* loads a study. Raises UnknownStudy, ConfigurationError."""
    settings = load_settings()
    # Not db.session.transaction: that would commit at the end of input.
    made = engine(settings.database(), LIMITS)
    event.listen(made, "after_cursor_execute", _limit_locks)
    with contextlib.ExitStack() as stack:
        stack.callback(made.dispose)
        session = stack.enter_context(Session(made))
        names = {"settings": settings, "session": session, "models": models, "select": select}
        if name is not None:
            names |= _study(session, name)
        code.interact(f"{', '.join(names)}\n{BANNER}", local=names, exitmsg="")


def _limit_locks(_connection: object, cursor: Any, statement: str, *_: object) -> None:
    """End the transaction after LOCKED_SECONDS without a statement, if it can have locked rows."""
    if not statement.lstrip().upper().startswith("SELECT") or " FOR " in statement:
        limit = f"SET LOCAL idle_in_transaction_session_timeout = '{LOCKED_SECONDS}s'"
        cursor.connection.execute(limit)


def _study(session: Session, name: str) -> dict[str, Any]:
    study = lifecycle.find(session, name)
    jobs = select(models.Job).where(models.Job.study_id == study.id).order_by(models.Job.revision)
    return {"study": study, "jobs": session.scalars(jobs).all(), "report": versions.current(session, study.id)}


if __name__ == "__main__":
    try:
        run(*sys.argv[1:2])
    except PrelimError as error:
        sys.exit(f"error: {error}")
