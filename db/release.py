"""Release of this program: its version, the newest migration, and a digest of its sources.

The version alone is the same for all commits until one raises it: two builds between would look like one, to
`prelim doctor` (`releases`), to `prelim_build_info` and its alert.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib.metadata import version
from pathlib import Path

#: Packages of this program, and the one that the images of the core leave out: all images of one build are one release.
PACKAGES = ("api", "db", "deploy", "dicom_listener", "worker")
LEFT_OUT = "deploy/demo/checkpoint"
ROOT = Path(__file__).parents[1]
#: Characters of the digest: two builds of a site are never the same by chance (one in 4 billion).
DIGITS = 8


@cache
def release() -> str:
    """Return the release, such as `0.1.0+0048.dc2dd4c6`.

    The files are read once. A long-running process asks at its start, before an upgrade can replace them.
    """
    return f"{version('prelim')}+{newest_migration(ROOT)}.{sources_digest(ROOT)}"


def newest_migration(root: Path) -> str:
    """Return the number of the newest migration below *root*."""
    return max(path.name[:4] for path in (root / "db" / "migrations" / "versions").glob("[0-9]*.py"))


def sources_digest(root: Path) -> str:
    """Return the first DIGITS digits of the SHA-256 of the modules below *root*, with their paths."""
    digest = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in _modules(root / package, root)):
        content = (root / path).read_bytes()
        digest.update(f"{path}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:DIGITS]


def _modules(folder: Path, root: Path) -> list[str]:
    """Return the paths of the modules of a package, relative to *root*: what an installation has of a checkout."""
    found = []
    for current, folders, files in os.walk(folder):
        relative = Path(current).relative_to(root).as_posix()
        if "__init__.py" not in files or relative == LEFT_OUT:
            folders.clear()
            continue
        found += [f"{relative}/{name}" for name in files if name.endswith(".py")]
    return found
