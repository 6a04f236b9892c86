"""requirements/*.txt: every package of an installation, versions as in constraints.txt, with hashes of its wheels."""

from __future__ import annotations

import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement

from tests.conftest import missing
from tests.packaging import hashes

WRITTEN = {file: (hashes.FOLDER / f"{file}.txt").read_text() for file in hashes.FILES}
ENTRY = re.compile(r"^([a-z0-9-]+)==(\S+)( ; \S.*?)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)


@pytest.mark.parametrize("file", hashes.FILES)
def test_file_has_every_package_of_its_extras_with_version_marker_and_hashes(file: str) -> None:
    """Otherwise: `make hashes`."""
    for requirement in hashes.direct(hashes.FILES[file], hashes.TARGETS[0]):
        if requirement.name != "prelim" and not any(metadata.distributions(name=requirement.name)):
            missing(f"{requirement.name}, whose dependencies it compares,")
    versions = hashes.pins()
    expected = {name: (versions[name], hashes.marker(targets)) for name, targets in hashes.sets()[file].items()}

    found = {name: (version, marker) for name, version, marker, _ in ENTRY.findall(WRITTEN[file])}

    assert found == expected
    assert WRITTEN[file] == hashes.HEAD + "\n".join(match[0] for match in ENTRY.finditer(WRITTEN[file])) + "\n"


def test_file_of_torch_for_cuda_has_its_pin_and_nothing_of_the_other_files() -> None:
    """Its other versions are those of the package index when the file was written."""
    text = (hashes.FOLDER / f"{hashes.CUDA}.txt").read_text()
    found = {name: (version, marker) for name, version, marker, _ in ENTRY.findall(text)}

    assert found[hashes.TORCH] == (hashes.pins()[hashes.TORCH], "")
    assert any(name.startswith("nvidia-cudnn") for name in found)
    assert not found.keys() & {name for group in hashes.sets().values() for name in group}
    assert text == hashes.HEAD + "\n".join(match[0] for match in ENTRY.finditer(text)) + "\n"


def test_file_of_torch_for_the_cpu_has_its_pin_and_a_wheel_of_every_python_and_machine() -> None:
    """Otherwise: `make hashes-cpu`."""
    text = (hashes.FOLDER / f"{hashes.CPU}.txt").read_text()
    ((name, version, marker, digests),) = ENTRY.findall(text)

    assert (name, version, marker) == (hashes.TORCH, f"{hashes.pins()[hashes.TORCH]}+cpu", "")
    assert len(set(re.findall("sha256:(.*?)(?: |$)", digests, re.MULTILINE))) == len(hashes.TARGETS)
    assert text == hashes.CPU_HEAD + "".join(match[0] for match in ENTRY.finditer(text)) + "\n"


def test_direct_dependencies_are_pinned_alike_in_both_files() -> None:
    versions = hashes.pins()
    extras = frozenset(extra for each in hashes.FILES.values() for extra in each)

    for target in hashes.TARGETS:
        for requirement in hashes.direct(extras, target):
            if requirement.name != "prelim":
                assert str(requirement.specifier) == f"=={versions[hashes.canonical(requirement.name)]}"


@pytest.mark.parametrize(
    ("pythons", "expected"), [(hashes.PYTHONS, ""), (hashes.PYTHONS[:3], ' ; python_version < "3.14"')]
)
def test_package_of_older_pythons_has_a_marker(pythons: tuple[str, ...], expected: str) -> None:
    targets = {target for target in hashes.TARGETS if target.python in pythons}

    assert hashes.marker(targets) == expected
    assert Requirement(f"a==1{expected}").marker is None or expected
