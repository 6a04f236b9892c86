"""Keep the object storage away for minutes while modalities send (`python -m tests.chaos.outage --minutes 10`).

Prints the figures, and the violations: an object that was refused or is lost, a study without its report, a backlog
that does not drain.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from sqlalchemy import func, select

from db.models import Report
from db.session import transaction
from db.storage import moves
from tests.chaos import checker
from tests.chaos.modality import RESPONSE_SECONDS, History, Modality, plan
from tests.chaos.system import System, running_system, single
from tests.chaos.test_chaos import ONE_WORKER
from tests.object_storage import seaweed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom import Dataset

    from db.storage.moves import Waiting
    from tests.chaos.modality import PlannedStudy
    from tests.chaos.system import Servers
    from tests.object_storage import Seaweed

MODALITIES = 4
#: Seconds of sending before the outage, for comparison, and at least after it; until the backlog must have drained.
BEFORE_SECONDS, AFTER_SECONDS, DRAIN_SECONDS = 90.0, 60.0, 600.0
console = Console(width=160, highlight=False)


class TimedModality(Modality):
    """Notes the seconds of each acknowledgement, at their time."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self.times: list[tuple[float, float]] = []

    def _acknowledged(self, association: object, dataset: Dataset, study: PlannedStudy) -> bool:
        begun = time.monotonic()
        result = super()._acknowledged(association, dataset, study)
        self.times.append((begun, time.monotonic() - begun))
        return result


class Outage:
    """The run: senders over a system whose object storage ends and returns."""

    def __init__(self, system: System, storage: Seaweed, seconds: float, rate: float) -> None:
        self._system, self._storage, self._seconds = system, storage, seconds
        whole = BEFORE_SECONDS + seconds + AFTER_SECONDS
        self._studies = plan(round(whole * rate), random.Random(16), {"plain": 4, "stat": 1})
        self._history = History()
        port = system.settings.dicom.dicom_port
        self._senders = [
            TimedModality(f"CT_{number}", port, self._studies[number::MODALITIES], whole, self._history)
            for number in range(MODALITIES)
        ]
        system.planned = self._studies

    def run(self) -> list[str]:
        """Return the violations."""
        for sender in self._senders:
            sender.start()
        self._system.supervise_for(BEFORE_SECONDS)
        self._print("before")
        self._storage.stop(kill=True)
        away_from, reports = time.monotonic(), self._reports()
        self._system.supervise_for(self._seconds)
        self._print(f"after {self._seconds:.0f} s without the storage")
        console.print(f"reports meanwhile: {self._reports() - reports}")
        back_at, backlog = time.monotonic(), self._waiting().files
        self._storage.start()
        self._drain()
        drained = time.monotonic() - back_at
        console.print(f"backlog: {backlog} files, drained {drained:.1f} s after its start, beside the senders")
        while any(sender.is_alive() for sender in self._senders):
            self._system.supervise_for(0.2)
        while not checker.all_ended(self._system, self._studies) and time.monotonic() - back_at < DRAIN_SECONDS:
            self._system.supervise_for(0.2)
        self._drain()
        self._print("at the end")
        self._print_slowest(away_from, back_at)
        return self._violations(drained)

    def _drain(self) -> None:
        """Wait until only files of the last seconds wait."""
        began = time.monotonic()
        while (left := self._waiting()).files and left.oldest_seconds > 2 and time.monotonic() - began < DRAIN_SECONDS:
            self._system.supervise_for(0.2)

    def _violations(self, drained: float) -> list[str]:
        found = checker.violations(self._system, self._studies, self._history)
        # One that is not answered in time is sent again, and may be so on a busy machine.
        if refused := sum(self._history.refused.values()):
            found.append(f"{refused} objects were refused")
        if drained >= DRAIN_SECONDS:
            found.append(f"the backlog did not drain within {DRAIN_SECONDS:.0f} s")
        return found

    def _waiting(self) -> Waiting:
        with transaction(self._system.url) as session:
            return moves.waiting(session)

    def _reports(self) -> int:
        with transaction(self._system.url) as session:
            return session.scalar(select(func.count()).select_from(Report)) or 0

    def _print(self, when: str) -> None:
        history, waiting = self._history, self._waiting()
        refused = sum(history.refused.values())
        answers = f"{len(history.acknowledged)} acknowledged, {refused} refused, {history.unanswered} unanswered"
        moved = f"{waiting.files} wait to be moved, the oldest for {waiting.oldest_seconds:.0f} s"
        console.print(f"{when}: {answers}; {self._reports()} reports; {moved}")

    def _print_slowest(self, away_from: float, back_at: float) -> None:
        times = [each for sender in self._senders for each in sender.times]
        spans = {
            "before": [took for begun, took in times if begun < away_from],
            "away": [took for begun, took in times if away_from <= begun < back_at],
            "after": [took for begun, took in times if begun >= back_at],
        }
        for name, found in spans.items():
            ordered = sorted(found) or [0.0]
            p95 = ordered[int(0.95 * (len(ordered) - 1))]
            console.print(f"acknowledged in, {name}: median {ordered[len(ordered) // 2]:.3f} s, p95 {p95:.3f} s")
            late = sum(took >= RESPONSE_SECONDS for took in found)
            console.print(f"    of {len(found)} objects; slowest {ordered[-1]:.2f} s; {late} not answered in time")


@contextmanager
def stored(folder: Path) -> Iterator[Servers]:
    with single(folder) as servers, seaweed(folder / "storage") as storage:
        servers.storage = storage
        yield servers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.outage", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=1, help="studies in a second, of 2 to 5 images each")
    wanted = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="outage-") as folder,
        running_system(Path(folder) / "system", ONE_WORKER, stored) as system,
    ):
        checker.record_transitions(system)
        assert system.servers.storage is not None
        found = Outage(system, system.servers.storage, wanted.minutes * 60, wanted.rate).run()
    for violation in found:
        console.print(f"VIOLATION: {violation}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
