"""Make a new snapshot of the reference index the current one; one command at a time changes the index."""

from __future__ import annotations

import datetime as dt
import fcntl
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from db import reference
from db.errors import ConfigurationError
from db.session import transaction
from worker.retrieval import changes
from worker.retrieval.index import ReferenceIndex
from worker.retrieval.snapshot import read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from db.settings import Settings
    from worker.retrieval.archive import ArchivedCase

#: Snapshots kept of a checkpoint: the current one, and the one before it if that is damaged.
KEPT = 2


def new_directory() -> str:
    """Return the folder of a new snapshot, relative to the data directory."""
    return f"reference/{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S%f}"


@contextmanager
def exclusive(settings: Settings) -> Iterator[None]:
    """Let one command change the index at a time; raises ConfigurationError if another one does."""
    folder = settings.operations.data_dir / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigurationError("another `prelim index` command is running: wait for its end") from error
        yield


def publish(settings: Settings, directory: str, model_digest: str, *, keep: int = KEPT) -> None:
    """Make a snapshot the current one of its model, and delete all but the *keep* newest of it."""
    data = settings.operations.data_dir
    manifest = read_manifest(data / directory, model_digest)
    cases = len(ReferenceIndex(data / directory, model_digest=model_digest))
    with transaction(settings.database()) as session:
        reference.add_snapshot(
            session, directory=directory, model_digest=model_digest, cases=cases, figures=manifest["figures"]
        )
        old = reference.forget_snapshots(session, model_digest, keep=keep)
    for name in old:
        # Workers that have mapped its files keep them until they load the new one.
        shutil.rmtree(data / name, ignore_errors=True)


def add(settings: Settings, model_digest: str, cases: Sequence[ArchivedCase]) -> None:
    """Add cases to the current snapshot of a checkpoint; raises ConfigurationError if it has none."""
    data = settings.operations.data_dir
    with transaction(settings.database()) as session:
        current = reference.current_snapshot(session, model_digest)
    if current is None:
        raise ConfigurationError("this checkpoint has no reference index yet: build one with `prelim index build`")
    directory = new_directory()
    changes.add_cases(data / current.directory, data / directory, cases, model_digest=model_digest)
    publish(settings, directory, model_digest)
