"""Interoperability with dcmjs-dimse, a client in JavaScript with its own code for associations and messages."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from dicom_listener.receive.listener import Listener
from tests.conftest import missing
from tests.integration.dicom_listener.listening import file_of_pydicom, settings_for, stored

SCRIPT = Path(__file__).with_name("dcmjs_dimse.js")
NODE = shutil.which("node")
FILES = ("CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm")


def is_installed() -> bool:
    """Return whether node finds the package, in a folder above or in NODE_PATH (`.ci/run` installs it there)."""
    if NODE is None:
        return False
    found = subprocess.run([NODE, "-e", "require('dcmjs-dimse')"], capture_output=True, check=False)
    return found.returncode == 0


@pytest.mark.slow
def test_dcmjs_dimse_verifies_and_stores(tmp_path: Path) -> None:
    if not is_installed():
        missing("dcmjs-dimse (npm install dcmjs-dimse, and NODE_PATH with its node_modules)")
    settings = settings_for(tmp_path)
    with Listener(settings) as listener:
        command = [str(NODE), str(SCRIPT), str(listener.port), *map(str, map(file_of_pydicom, FILES))]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert json.loads(printed.splitlines()[-1]) == [0, 0, 0, 0]
        assert len(stored(settings)) == len(FILES)
