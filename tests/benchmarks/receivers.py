"""The DICOM receivers that are compared, each started by its own command."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

#: For DCMTK, which leaves Nagle's algorithm on otherwise.
NODELAY = {**os.environ, "TCP_NODELAY": "1"}
START_SECONDS = 30
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def prelim(folder: Path, port: int) -> list[str]:
    """The listener, by its own command."""
    code = "from db.settings import Settings; from dicom_listener.receive import listener; from pathlib import Path; "
    return [sys.executable, "-c", code + f"listener.run(Settings(data_dir=Path({str(folder)!r}), dicom_port={port}))"]


def storescp(folder: Path, port: int) -> list[str]:
    """DCMTK's, at its largest PDU."""
    return ["storescp", "-pdu", "131072", "+xa", "-od", str(folder), str(port)]


def orthanc(folder: Path, port: int) -> list[str]:
    """Orthanc with its defaults, SyncStorageArea among them."""
    configuration = {
        "Name": "bench",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpServerEnabled": False,
        "DicomAet": "ANY-SCP",
        "DicomPort": port,
        "MaximumPduLength": 131072,
        "SyncStorageArea": True,
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(file)]


RECEIVERS = {"prelim": prelim, "storescp": storescp, "orthanc": orthanc}


@contextlib.contextmanager
def receiving(name: str, parent: Path) -> Iterator[tuple[int, int]]:
    """Start a receiver in an empty folder below *parent*; yields its port and process id.

    What it stored stays until *parent* goes: file systems find new inodes slowly where many were freed a moment ago,
    and the next receiver would pay for it.
    """
    folder = Path(tempfile.mkdtemp(dir=parent))
    port = free_port()
    process = subprocess.Popen(
        RECEIVERS[name](folder, port), env=NODELAY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(port, process)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if subprocess.run(["echoscu", "127.0.0.1", str(port)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)
    raise SystemExit(f"{process.args!r} does not answer")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS_PER_SECOND


def peak_bytes(pid: int) -> int:
    """The most memory a process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
