"""Reducing an environment leaves what it needs: libraries load without their symbols, under all their names."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import markupsafe
import pytest

DROP_UNUSED = Path(__file__).parents[3] / "deploy" / "docker" / "drop_unused.py"
LIBRARY = next(Path(markupsafe.__file__).parent.glob("_speedups*.so"))


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The library, three names of another one, a folder of tests, a header and a damaged library."""
    for folder in ("pillow.libs", "package/tests", "package/test_files"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(LIBRARY, tmp_path / LIBRARY.name)
    for name in ("libgdcm.so", "libgdcm.so.3", "libgdcm.so.3.2.6"):
        shutil.copy(LIBRARY, tmp_path / "package" / name)
    for name in ("libother.so", "test_files/image.dcm", "tests/test_a.py", "stub.pyi", "libx.a", "module.py"):
        (tmp_path / "package" / name).write_bytes(b"not a library")
    (tmp_path / "pillow.libs" / "libavif-c6062d5f.so.16").write_bytes(b"")
    subprocess.run([sys.executable, DROP_UNUSED, tmp_path], check=True)
    return tmp_path


def test_library_without_symbols_is_smaller_and_works(environment: Path) -> None:
    reduced = environment / LIBRARY.name
    command = f"import importlib.util as u, sys; s = u.spec_from_file_location('_speedups', {str(reduced)!r}); "

    ran = subprocess.run(
        [sys.executable, "-c", command + "print(u.module_from_spec(s)._escape_inner('<'))"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stdout == "&lt;\n", ran.stderr
    assert reduced.stat().st_size < 0.7 * LIBRARY.stat().st_size
    subprocess.run([sys.executable, DROP_UNUSED, environment], check=True)


def test_copies_of_a_library_are_links_and_files_for_development_are_gone(environment: Path) -> None:
    package = environment / "package"

    assert sorted(path.name for path in package.iterdir()) == [
        "libgdcm.so",
        "libgdcm.so.3",
        "libgdcm.so.3.2.6",
        "libother.so",
        "module.py",
    ]
    assert (package / "libgdcm.so").readlink() == (package / "libgdcm.so.3").readlink() == Path("libgdcm.so.3.2.6")
    assert (package / "libother.so").read_bytes() == b"not a library"
    assert not list((environment / "pillow.libs").iterdir())
