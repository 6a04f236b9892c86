"""Measure transfers of a study to a receiver, and the disk beneath it."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.uid import CTImageStorage, generate_uid

from tests.benchmarks.receivers import NODELAY, cpu_seconds, receiving
from tests.benchmarks.synthetic import write_slice

#: Pixels of one side, 16 bit, of the objects of a study.
SIDES = {"ct": 512, "small": 101}
#: Flushes measured before each transfer.
FLUSHES = 50


@dataclass(frozen=True)
class Transfer:
    """A measured transfer; times in seconds, CPU times with those of child processes."""

    instances: int
    megabytes: float
    seconds: float
    receiver_cpu: float
    senders_cpu: float
    #: Load average of the machine when it began.
    load: float

    @property
    def rate(self) -> float:
        """Instances a second."""
        return self.instances / self.seconds

    @property
    def receiver_cpu_ms(self) -> float:
        """The receiver's CPU milliseconds an instance."""
        return 1000 * self.receiver_cpu / self.instances

    @property
    def senders_cpu_ms(self) -> float:
        """The senders' CPU milliseconds an instance."""
        return 1000 * self.senders_cpu / self.instances


def make_study(folder: Path, name: str, instances: int) -> list[Path]:
    """Write a study: noise, which no link or disk compresses."""
    random, side = np.random.default_rng(0), SIDES[name]
    study, series = generate_uid(), generate_uid()
    (folder / name).mkdir()
    files = [folder / name / f"{number:05}.dcm" for number in range(instances)]
    for path in files:
        write_slice(path, random.integers(0, 4096, (side, side), np.uint16), CTImageStorage, study, series)
    return files


def measure(receiver: str, files: list[Path], associations: int, parent: Path) -> Transfer:
    """Send *files* over several simultaneous associations to a receiver that stores them below *parent*."""
    load = os.getloadavg()[0]
    with receiving(receiver, parent) as (port, pid):
        # What an earlier receiver left in the page cache must not be written during this one's time.
        os.sync()
        senders_before, before, started = _waited_for_cpu(), cpu_seconds(pid), time.perf_counter()
        senders = [
            subprocess.Popen(["dcmsend", "127.0.0.1", str(port), *map(str, files[i::associations])], env=NODELAY)
            for i in range(associations)
        ]
        failed = sum(sender.wait() != 0 for sender in senders)
        seconds = time.perf_counter() - started
        cpu, senders_cpu = cpu_seconds(pid) - before, _waited_for_cpu() - senders_before
    if failed:
        raise SystemExit(f"{failed} senders to {receiver} failed")
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    return Transfer(len(files), megabytes, seconds, cpu, senders_cpu, load)


def _waited_for_cpu() -> float:
    """CPU time of the children that have ended: the senders; a receiver ends later."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def flush_seconds(parent: Path, size: int) -> float:
    """Median time of the disk for one fdatasync of *size* bytes just written to a file that had none."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    content, seconds = os.urandom(size), []
    for number in range(FLUSHES):
        with (folder / str(number)).open("wb", buffering=0) as file:
            os.fsync(file.fileno())
            file.write(content)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)
