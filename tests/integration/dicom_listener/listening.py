"""Settings of a listener on a free port, and its stored files."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydicom.data import get_testdata_file

from db.settings import Settings
from dicom_listener.receive.upper_layer.association import CONNECTION_THREAD
from dicom_listener.scu.send import Node
from dicom_listener.spool import file_meta
from dicom_listener.spool.durable import Slot, Spool
from dicom_listener.spool.waiting import received

if TYPE_CHECKING:
    from dicom_listener.receive.listener import Listener


def settings_for(folder: Path, **values: Any) -> Settings:
    """Settings of a listener with its spool in *folder*."""
    return Settings(data_dir=folder, dicom_port=0, **values)


def slot_of_listener(settings: Settings) -> Slot:
    """The slot of the only listener of a spool."""
    return Spool(settings.spool).slot(f"{socket.gethostname()}-0")


def node(listener: Listener, **names: str) -> Node:
    """The listener as a node to send to."""
    return Node("127.0.0.1", listener.port, **{"called": "PRELIM", **names})


def stored(settings: Settings) -> list[tuple[file_meta.FileMeta, bytes]]:
    """Acknowledged files that are not yet indexed: file meta and data set."""
    contents = [path.read_bytes() for path in received(Spool(settings.spool))]
    metas = map(file_meta.decode, contents)
    return [(meta, content[meta.length :]) for meta, content in zip(metas, contents, strict=True)]


def connections() -> int:
    """Count the connections that listeners of this process serve, by their threads."""
    return sum(thread.name == CONNECTION_THREAD for thread in threading.enumerate())


def file_of_pydicom(name: str) -> Path:
    """A test file shipped with pydicom."""
    found = get_testdata_file(name, download=False)
    assert isinstance(found, str)
    return Path(found)
