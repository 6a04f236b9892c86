"""Open an interactive Python console with a session on the configured database (`make shell STUDY=...`)."""

from __future__ import annotations

import code
import sys
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from db import models
from db.environment import load_settings
from db.errors import PrelimError
from db.reports import versions
from db.session import CONSOLE, engine
from db.studies import lifecycle

BANNER = "session.commit() stores changes; Ctrl-D discards uncommitted changes and exits"


def run(name: str | None = None) -> None:
    """Interact until end of input; *name* loads a study. Raises UnknownStudy, ConfigurationError."""
    settings = load_settings()
    # Not db.session.transaction: that would commit at the end of input.
    with Session(engine(settings.database(), CONSOLE)) as session:
        names = {"settings": settings, "session": session, "models": models, "select": select}
        if name is not None:
            names |= _study(session, name)
        code.interact(f"{', '.join(names)}\n{BANNER}", local=names, exitmsg="")


def _study(session: Session, name: str) -> dict[str, Any]:
    study = lifecycle.find(session, name)
    jobs = select(models.Job).where(models.Job.study_id == study.id).order_by(models.Job.revision)
    return {"study": study, "jobs": session.scalars(jobs).all(), "report": versions.current(session, study.id)}


if __name__ == "__main__":
    try:
        run(*sys.argv[1:2])
    except PrelimError as error:
        sys.exit(f"error: {error}")
