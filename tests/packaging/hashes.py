"""Write `requirements/*.txt`: every package of an installation with the SHA-256 of its wheels (`make hashes`).

The packages are those that pyproject.toml and the metadata of the installed packages name, for each Python and
architecture; versions are those of constraints.txt, hashes those that the package index lists. With the argument
`cpu`: the file of torch's build for the CPU (`make hashes-cpu`).
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "requirements"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
#: Policies of glibc that a wheel may name. A package can have a wheel for glibc 2.28 and another for a newer one: pip
#: takes the newest for which the machine's is new enough.
NEW_POLICIES = tuple(f"manylinux_2_{minor}" for minor in range(42, 28, -1))
OLD_POLICIES = (
    *(f"manylinux_2_{minor}" for minor in range(28, 16, -1)),
    *("manylinux2014", "manylinux2010", "manylinux_2_12", "manylinux_2_5", "manylinux1"),
)
#: Extras of each file, beyond those of the first one, which also has the build backend of Prelim itself.
FILES = {"core": ("images",), "worker": ("worker", "evaluate"), "embedded": ("embedded",), "otel": ("otel",)}
BUILD = "setuptools"
#: Its build for CUDA has a file of its own, with the packages which that needs. So has the build for the CPU, whose
#: index is PyTorch's, which not every site reaches; TORCH_OPTIONS names another one, as for the images.
TORCH, CUDA, CPU = "torch", "cuda", "cpu"
CPU_INDEX = "--index-url https://download.pytorch.org/whl/cpu"
HEAD = "# Written by `make hashes`; see docs/dependencies.md.\n"
CPU_HEAD = HEAD.replace("make hashes", "make hashes-cpu")


class Target(NamedTuple):
    """A Python and an architecture."""

    python: str
    machine: str

    def markers(self) -> dict[str, str]:
        """Return the values of environment markers (PEP 508)."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "platform_machine": self.machine,
            "platform_system": "Linux",
            "platform_python_implementation": "CPython",
            "implementation_name": "cpython",
            "sys_platform": "linux",
            "os_name": "posix",
        }


TARGETS = [Target(python, machine) for python in PYTHONS for machine in MACHINES]


def packages(target: Target, extras: Iterable[str]) -> set[str]:
    """Return the names of the packages that Prelim with *extras* needs there, from the installed metadata."""
    found: set[tuple[str, frozenset[str]]] = set()
    open_ = [("prelim", frozenset(extras))]
    while open_:
        each = open_.pop()
        if each not in found:
            found.add(each)
            open_ += _needs(*each, target)
    return {name for name, _ in found} - {"prelim"}


def _needs(name: str, extras: frozenset[str], target: Target) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield the packages that one needs, with their extras."""
    try:
        found = direct(extras, target) if name == "prelim" else _there(metadata.requires(name) or [], extras, target)
    except metadata.PackageNotFoundError:
        return  # a module for older Pythons, which needs nothing
    for needed in found:
        yield canonical(needed.name), frozenset(needed.extras)


def direct(extras: Iterable[str], target: Target) -> list[Requirement]:
    """Return the dependencies of pyproject.toml with those of *extras*."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = itertools.chain(project["dependencies"], *(project["optional-dependencies"][extra] for extra in extras))
    return _there(lines, (), target)


def _there(lines: Iterable[str], extras: Iterable[str], target: Target) -> list[Requirement]:
    """Return the requirements whose marker is true there."""
    environments = [target.markers() | {"extra": extra} for extra in extras or ("",)]
    needed = map(Requirement, lines)
    return [each for each in needed if each.marker is None or any(map(each.marker.evaluate, environments))]


def canonical(name: str) -> str:
    """Return the normal form of a package's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """Return the versions of constraints.txt by name."""
    lines = (REPOSITORY / "constraints.txt").read_text().split()
    return {canonical(name): version for name, _, version in (line.partition("==") for line in lines)}


@cache
def sets() -> dict[str, dict[str, set[Target]]]:
    """Return the packages of each file, with the targets that need them."""
    written: set[str] = {TORCH}
    result: dict[str, dict[str, set[Target]]] = {}
    for file, extras in FILES.items():
        here: dict[str, set[Target]] = defaultdict(set)
        for target in TARGETS:
            for name in packages(target, extras) | ({BUILD} if file == "core" else set()):
                here[name].add(target)
        result[file] = {name: targets for name, targets in here.items() if name not in written}
        written |= result["core"].keys()
    return result


def marker(targets: set[Target]) -> str:
    """Return the environment marker of a package that only *targets* need; empty for all."""
    pythons = [python for python in PYTHONS if (python, MACHINES[0]) in targets]
    assert targets == {Target(*each) for each in TARGETS if each.python in pythons}, "by Python only"
    assert pythons == list(PYTHONS[: len(pythons)]), "older ones only"
    return "" if len(pythons) == len(PYTHONS) else f' ; python_version < "{PYTHONS[len(pythons)]}"'


def wheels(
    names: list[str], target: Target, policies: tuple[str, ...], dependencies: tuple[str, ...] = ("--no-deps",)
) -> dict[str, str]:
    """Return the SHA-256 of the wheels that pip would install there, by pin, as the index lists them."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--only-binary=:all:", *dependencies]
    platforms = [f"--platform={policy}_{target.machine}" for policy in policies]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = (f"--python-version={target.python}", f"--target={folder}", f"--report={report}")
        # Folders of wheels in a configuration of this machine are not the index.
        environment = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
        subprocess.run(
            [*command, *options, *platforms, *names], check=True, env=environment | {"PIP_CONFIG_FILE": os.devnull}
        )
        installed = json.loads(report.read_text())["install"]
    return {
        f"{canonical(each['metadata']['name'])}=={each['metadata']['version']}": each["download_info"]["archive_info"][
            "hashes"
        ]["sha256"]
        for each in installed
    }


def cuda_wheels(target: Target) -> dict[str, set[str]]:
    """Return the SHA-256 of the wheels of torch's build for CUDA and of what it needs there, by pin.

    The index has its metadata; that of the installed torch may be of a build for the CPU. Versions that torch leaves
    open are the newest.
    """
    constrained = ("--constraint", str(REPOSITORY / "constraints.txt"))
    found = wheels([f"{TORCH}=={pins()[TORCH]}"], target, OLD_POLICIES, constrained)
    newer = wheels(list(found), target, NEW_POLICIES + OLD_POLICIES)
    return {pin: {digest, newer[pin]} for pin, digest in found.items()}


def write_cuda(others: set[str]) -> None:
    """Write the file of torch's build for CUDA: torch, and what is not among the *others*."""
    found: dict[str, set[str]] = defaultdict(set)
    needed: dict[str, set[Target]] = defaultdict(set)
    for target in TARGETS:
        for pin, digests in cuda_wheels(target).items():
            found[pin] |= digests
            needed[pin].add(target)
    pins_here = [(*pin.split("=="), targets) for pin, targets in sorted(needed.items())]
    entries = [entry(name, version, targets, found) for name, version, targets in pins_here if name not in others]
    (FOLDER / f"{CUDA}.txt").write_text(HEAD + "\n".join(entries) + "\n")


def write_cpu(options: str, targets: Iterable[Target] = TARGETS, folder: Path = FOLDER) -> None:
    """Write the file of torch's build for the CPU, with *options* of pip for its index."""
    pin = f"{TORCH}=={pins()[TORCH]}+{CPU}"
    found: dict[str, set[str]] = defaultdict(set)
    for target in targets:
        for policies in (OLD_POLICIES, NEW_POLICIES + OLD_POLICIES):
            for each, digest in wheels([pin], target, policies, ("--no-deps", *options.split())).items():
                found[each].add(digest)
    (folder / f"{CPU}.txt").write_text(CPU_HEAD + entry(*pin.split("=="), set(TARGETS), found) + "\n")


def main() -> None:
    """Write the files that the package index has the wheels of."""
    versions, asked = pins(), sets()
    found: dict[str, set[str]] = defaultdict(set)
    for target in TARGETS:
        here = {name for group in asked.values() for name, targets in group.items() if target in targets}
        for policies in (OLD_POLICIES, NEW_POLICIES + OLD_POLICIES):
            for pin, digest in wheels([f"{name}=={versions[name]}" for name in here], target, policies).items():
                found[pin].add(digest)
        print(f"Python {target.python}, {target.machine}: {len(here)} packages", flush=True)  # noqa: T201 - it takes minutes
    FOLDER.mkdir(exist_ok=True)
    for file, group in asked.items():
        entries = (entry(name, versions[name], targets, found) for name, targets in sorted(group.items()))
        (FOLDER / f"{file}.txt").write_text(HEAD + "\n".join(entries) + "\n")
    write_cuda({name for group in asked.values() for name in group})


def entry(name: str, version: str, targets: set[Target], found: dict[str, set[str]]) -> str:
    """Return a package with its hashes, as pip reads it."""
    pin = f"{name}=={version}"
    return " \\\n".join((pin + marker(targets), *(f"    --hash=sha256:{digest}" for digest in sorted(found[pin]))))


if __name__ == "__main__":
    if sys.argv[1:] == [CPU]:
        write_cpu(os.environ.get("TORCH_OPTIONS") or CPU_INDEX)
    else:
        main()
