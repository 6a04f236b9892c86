"""Audits beside traffic: one planted breach after the other is found, and nothing else is a violation.

`python -m tests.chaos.planted --seconds 600` runs it. A breach is planted in a copy of a reported study, whose rows
stay locked, so that no process repairs it before the audit.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.rows import scalar_row
from sqlalchemy import text

from db.session import transaction
from deploy.operate import audit, report_images
from tests.chaos import breaches
from tests.chaos.breaches import COPY, FILES, LOCK, ORIGINAL, REMOVE, RESCUED, ROWS, Planted
from tests.chaos.modality import History, Modality, plan
from tests.chaos.system import System, running_system

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Statements by rule.
ALL = ROWS | FILES


class Result(NamedTuple):
    """Counts of a run; *false* are violations without a breach, *missed* breaches that an audit did not find."""

    audits: int
    studies: int
    found: Counter[str]
    false: list[str]
    missed: list[str]


def run(system: System, seconds: float, seed: int = 1) -> Result:
    """Send studies for *seconds*, and audit all the time, every other audit with a planted breach."""
    planned = plan(int(seconds), random.Random(seed))
    modality = Modality("TRAFFIC", system.settings.dicom.dicom_port, planned, seconds, History())
    modality.start()
    result = Result(0, len(planned), Counter(), [], [])
    ends = time.monotonic() + seconds
    with psycopg.connect(system.url.replace("+psycopg", ""), row_factory=scalar_row) as connection:
        for rule in itertools.cycle(ALL):
            if time.monotonic() > ends:
                break
            result = _audit(system, None, "", result)
            with _planted(system, connection, rule) as planted:
                result = _audit(system, planted, rule, result)
    return result


def _audit(system: System, planted: Planted | None, rule: str, result: Result) -> Result:
    system.supervise()
    violations = audit.check(system.settings)
    for violation in violations:
        if planted is None or not planted.is_subject(violation):
            result.false.append(f"{violation.rule}: {violation.subject}")
    if planted is not None:
        found = any(violation.rule == rule and planted.is_subject(violation) for violation in violations)
        result.found[rule] += found
        result.missed.extend([] if found or _was_rescued(system, planted, rule) else [rule])
    return result._replace(audits=result.audits + 1)


def _was_rescued(system: System, planted: Planted, rule: str) -> bool:
    """Return whether a dispatcher has rescued the job between the commit of the breach and the lock."""
    with transaction(system.url) as session:
        state = session.scalar(text("SELECT state FROM jobs WHERE id = :job"), {"job": planted.names["job"]})
    return rule == RESCUED and state != "running"


def _original(system: System, connection: psycopg.Connection[Any]) -> tuple[str, str]:
    while (found := connection.execute(ORIGINAL).fetchone()) is None:
        connection.commit()
        system.supervise_for(0.5)
    return found[0], found[1]


@contextmanager
def _planted(system: System, connection: psycopg.Connection[Any], rule: str) -> Iterator[Planted]:
    """Plant a breach of *rule* and remove it afterwards."""
    original = _original(system, connection)
    planted = breaches.planted(system.settings, rule, original)
    shutil.copyfile(system.settings.operations.data_dir / original[1], planted.file)
    # The file of a row that is not yet visible would be a violation.
    for statement in (*COPY, ALL[rule]):
        _execute(connection, statement, planted.names)
    connection.commit()
    if rule != report_images.UNUSED:  # images of a locked study are in use, and no process deletes the others
        connection.execute(LOCK, planted.names)
    with ExitStack() as held:
        breaches.damage(planted, rule, held)
        try:
            yield planted
        finally:
            for statement in REMOVE:
                connection.execute(statement.encode(), planted.names)
            connection.commit()
            breaches.remove(planted)


def _execute(connection: psycopg.Connection[Any], statements: str, names: dict[str, Any]) -> None:
    for statement in filter(str.strip, statements.split(";")):
        connection.execute(statement.encode(), names)


def main() -> None:
    """Run it and print the counts as JSON; exit with 1 for a false verdict or a breach that was not found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory(prefix="planted-") as folder, running_system(Path(folder)) as system:
        result = run(system, seconds)
    print(json.dumps(result._asdict(), indent=1))  # noqa: T201 - the result
    raise SystemExit(bool(result.false or result.missed))


if __name__ == "__main__":
    main()
