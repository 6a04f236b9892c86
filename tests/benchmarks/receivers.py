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
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.processes import descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: For DCMTK, which leaves Nagle's algorithm on otherwise.
NODELAY = {**os.environ, "TCP_NODELAY": "1"}
#: DCMTK's largest PDU, for every receiver.
PDU_BYTES = "131072"
START_SECONDS = 30
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def prelim(processes: int, folder: Path, port: int) -> list[str]:
    """`prelim listen`, with the number of its processes; from two, a parent hands connections to them."""
    settings = {"DATA_DIR": folder, "DICOM_PORT": port, "LISTENER_PROCESSES": processes}
    variables = [f"PRELIM_{name}={value}" for name, value in settings.items()]
    return ["env", *variables, sys.executable, "-c", "from deploy.cli.entry import main; main()", "listen"]


def storescp(*options: str, folder: Path, port: int) -> list[str]:
    """DCMTK's, at its largest PDU; with `--fork`, in a process for each association."""
    return ["storescp", *options, "-pdu", PDU_BYTES, "+xa", "-od", str(folder), str(port)]


def pynetdicom(folder: Path, port: int) -> list[str]:
    """pynetdicom's own application."""
    command = [sys.executable, "-m", "pynetdicom", "storescp"]
    return [*command, "--quiet", "--max-pdu", PDU_BYTES, "--output-directory", str(folder), str(port)]


def orthanc(folder: Path, port: int) -> list[str]:
    """Orthanc with its defaults, SyncStorageArea among them."""
    configuration = {
        "Name": "bench",
        "StorageDirectory": str(folder),
        "IndexDirectory": str(folder),
        "HttpServerEnabled": False,
        "DicomAet": "ANY-SCP",
        "DicomPort": port,
        "MaximumPduLength": int(PDU_BYTES),
        "SyncStorageArea": True,
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    return [shutil.which("Orthanc") or "/usr/sbin/Orthanc", str(file)]


RECEIVERS: dict[str, Callable[..., list[str]]] = {
    "prelim_1": partial(prelim, 1),
    "prelim_2": partial(prelim, 2),
    "storescp": storescp,
    "storescp_fork": partial(storescp, "--fork"),
    "orthanc": orthanc,
    "pynetdicom": pynetdicom,
}


@contextlib.contextmanager
def receiving(name: str, parent: Path) -> Iterator[tuple[int, int]]:
    """Start a receiver in an empty folder below *parent*; yields its port and process id.

    What it stored stays until *parent* goes: file systems find new inodes slowly where many were freed a moment ago,
    and the next receiver would pay for it.
    """
    folder = Path(tempfile.mkdtemp(dir=parent))
    port = free_port()
    process = subprocess.Popen(
        RECEIVERS[name](folder=folder, port=port), env=NODELAY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
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
    """User and system time of a process and of its descendants, ended ones included."""
    ticks = 0
    for each in (*descendants(pid), pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended: its parent has its time
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS_PER_SECOND


def peak_bytes(pid: int) -> int:
    """The most memory a process has had resident."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
