"""Make a new snapshot of the reference index the current one; one command at a time changes the index."""

from __future__ import annotations

import datetime as dt
import fcntl
import shutil
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

from db import reference
from db.errors import ConfigurationError
from db.session import transaction
from worker.retrieval import changes
from worker.retrieval.index import ReferenceIndex
from worker.retrieval.snapshot import archive_beside, read_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

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
    _delete(data, old)


def delete_older(settings: Settings, model_digest: str) -> None:
    """Delete all but the current snapshot of a model."""
    with transaction(settings.database()) as session:
        old = reference.forget_snapshots(session, model_digest, keep=1)
    _delete(settings.operations.data_dir, old)


def _delete(data: Path, directories: Iterable[str]) -> None:
    for name in directories:
        # Workers that have mapped its files keep them until they load the new one.
        shutil.rmtree(data / name, ignore_errors=True)


def add(
    settings: Settings,
    model_digest: str,
    cases: Sequence[ArchivedCase],
    disagreeing: Callable[[Iterable[ArchivedCase]], Mapping[str, str]],
) -> dict[str, str]:
    """Add cases to the current snapshot of a checkpoint; return id and reason of those that are set aside instead.

    *disagreeing* returns id and reason of cases whose report and images disagree. Raises ConfigurationError if there is
    no snapshot.
    """
    data = settings.operations.data_dir
    with transaction(settings.database()) as session:
        current = reference.current_snapshot(session, model_digest)
    if current is None:
        raise ConfigurationError("this checkpoint has no reference index yet: build one with `prelim index build`")
    previous, directory = data / current.directory, new_directory()
    archive = archive_beside(previous, model_digest)
    new = {one.case.case_id: one for one in cases}
    others = (case_id for case_id in ReferenceIndex(previous, model_digest=model_digest).case_ids())
    known = (archive.read(case_id) for case_id in others if case_id not in new)
    found = disagreeing(chain(known, cases))
    aside = {case_id: reason for case_id, reason in found.items() if case_id in new}
    agreeing = [one for case_id, one in new.items() if case_id not in aside]
    for case_id in aside:
        archive.write(new[case_id])
    changes.add_cases(previous, data / directory, agreeing, model_digest=model_digest, set_aside=aside)
    publish(settings, directory, model_digest)
    return aside
