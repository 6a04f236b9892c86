"""Times that people read name their zone: hosts, containers and databases of one site have different ones."""

from __future__ import annotations

import re

from tests.conftest import REPOSITORY

PACKAGES = ("api", "db", "deploy", "dicom_listener", "worker")
TIME = re.compile(r"%H:?%M")
#: Also Z, as in ISO 8601, for UTC.
ZONE = re.compile(r"%[zZ]|UTC|Z[}\"]")


def test_no_time_is_formatted_without_its_zone() -> None:
    lines = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for package in PACKAGES
        for path in (REPOSITORY / package).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if TIME.search(line) and not ZONE.search(line)
    ]

    assert lines == []
