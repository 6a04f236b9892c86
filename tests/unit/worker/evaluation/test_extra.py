"""The extra `evaluate` is needed for evaluation, and for nothing that serves."""

from __future__ import annotations

import subprocess
import sys

import pytest

EXTRA = ("sacrebleu", "rapidfuzz", "matplotlib")
#: Makes the packages of the extra look uninstalled.
WITHOUT_EXTRA = f"import sys; sys.modules.update(dict.fromkeys({EXTRA!r}))\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT_EXTRA + code], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_everything_but_evaluation_starts_without_the_extra() -> None:
    ran = run("import api.app, deploy.demo.demo, dicom_listener.dispatch, worker.process, worker.resident")

    assert ran.returncode == 0, ran.stderr


def test_evaluation_without_the_extra_names_the_command_that_installs_it() -> None:
    ran = run("import worker.evaluation.evaluate")

    assert (
        "ConfigurationError: missing packages for evaluation: run `pip install -c constraints.txt '.[evaluate]'`"
        in ran.stderr
    )
