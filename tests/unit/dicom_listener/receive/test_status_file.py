"""Status file of the listener: a damaged one is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from db.models import Process
from db.operations import heartbeats, listener_status
from db.operations.listener_status import ServedCertificate
from dicom_listener.receive import status_file
from dicom_listener.receive.counters import RefusalCounter

if TYPE_CHECKING:
    from pathlib import Path

PARENT = {"process": "host:1", "open": 3, "processes": 2}


@pytest.mark.parametrize("parent", [None, PARENT])
def test_status_with_refusals_is_read_as_it_was_written(tmp_path: Path, parent: dict[str, object] | None) -> None:
    refusals = RefusalCounter()
    refusals.add("object", "CT_1", "the SOP Instance UID differs from the command's")
    status = {"process": heartbeats.name(), "open": 1, "limit": 50, "parent": parent, "draining": False}
    path = tmp_path / "listener.json"
    status_file.write(path, status | refusals.summary())

    found = status_file.read(path)

    assert found is not None
    assert found["refused"] == [["CT_1", "the SOP Instance UID differs from the command's", 1]]
    assert {name: found[name] for name in status} == status


def test_status_of_a_later_release_is_read_with_what_it_adds(tmp_path: Path) -> None:
    certificate = {"ends": 1.5, "fingerprint": "f", "authorities": "", "names": ["later"]}
    path = tmp_path / "listener.json"
    status_file.write(path, {"process": "host:1", "certificate": certificate, "later": 1})

    found = status_file.read(path)

    assert found is not None
    process = Process(name="host:1", role="listener", info=found)
    assert listener_status.current([process])[0].certificate == ServedCertificate(1.5, "f", "")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"open": 1}',
        '{"process": 5}',
        '{"process": "host:1", "open": "many"}',
        '{"process": "host:1", "parent": "host:2"}',
        '{"process": "host:1", "certificate": "host.pem"}',
        '{"process": "host:1", "certificate": {"ends": 1.5}}',
        '{"process": "host:1", "certificate": {"ends": "soon", "fingerprint": "", "authorities": ""}}',
        '{"process": "host:1", "causes": 5}',
        '{"process": "host:1", "causes": [["object", "a cause", "2", 1.0]]}',
        '{"process": "host:1", "refused": [["CT_1", "a cause"]]}',
        '{"process": "host:1", "refused": [["CT\\u0000", "a cause", 1]]}',
        '{"process": "host:\\ud800"}',
        '{"process": "host:1", "causes": [["object", "a cause", 1, 1e999]]}',
        '{"process": "host:1", "causes": [["object", "a cause", 1, NaN]]}',
        "[" * 100_000,
    ],
)
def test_file_with_values_that_its_readers_cannot_use_is_no_status(tmp_path: Path, content: str) -> None:
    path = tmp_path / "listener.json"
    path.write_text(content)

    assert status_file.read(path) is None
