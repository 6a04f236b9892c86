"""A machine with 32 processors and 256 GiB, whose container may use 2 processors and 4 GiB."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from db import container_limits
from db.environment import load_settings
from db.settings import Settings
from dicom_listener.receive.prefork import parent

if TYPE_CHECKING:
    from pathlib import Path

#: Files of the kernel in a container of 2 processors and 4 GiB: version 2, version 1 as a container sees it and as a
#: service of the host does, and a service of version 2 whose slice has the limits.
CONTAINERS = {
    "v2": {"cpu.max": "200000 100000", "memory.max": str(4 << 30)},
    "v1": {
        "cpu/cpu.cfs_quota_us": "200000",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": str(4 << 30),
    },
    "v1 service": {
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "cpu/prelim/cpu.cfs_quota_us": "200000",
        "cpu/prelim/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": str((1 << 63) - 4096),
        "memory/prelim/memory.limit_in_bytes": str(4 << 30),
    },
    "v2 slice": {
        "prelim.slice/cpu.max": "200000 100000",
        "prelim.slice/memory.max": str(4 << 30),
        "prelim.slice/worker.service/cpu.max": "max 100000",
        "prelim.slice/worker.service/memory.max": "max",
    },
}
GROUPS = {
    "v1 service": "5:memory:/prelim\n4:cpu,cpuacct:/prelim\n1:name=systemd:/x\n",
    "v2 slice": "0::/prelim.slice/worker.service\n",
}


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)))
    for name in container_limits.THREADS:
        monkeypatch.delenv(name, raising=False)


def container(root: Path, kind: str, files: dict[str, str] | None = None) -> Path:
    written = {f"sys/fs/cgroup/{name}": value for name, value in (files or CONTAINERS[kind]).items()}
    written["proc/meminfo"] = f"MemTotal: {256 << 20} kB\nMemFree: 1000 kB\n"
    written["proc/self/cgroup"] = GROUPS.get(kind, "0::/\n")
    for name, value in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(value.rstrip() + "\n")
    return root


@pytest.mark.parametrize("kind", CONTAINERS)
def test_limits_of_the_container_count_not_those_of_the_machine(tmp_path: Path, kind: str) -> None:
    root = container(tmp_path, kind)

    assert container_limits.processors(root) == 2
    assert container_limits.memory(root) == 4 << 30


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_machine_without_limits_is_used_whole(tmp_path: Path, kind: str) -> None:
    unlimited = {
        "v1": {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        "v2": {"cpu.max": "max 100000", "memory.max": "max"},
    }
    root = container(tmp_path, kind, unlimited[kind])

    assert (container_limits.processors(root), container_limits.memory(root)) == (32, 256 << 30)
    container_limits.limit_threads(root)
    assert not [name for name in container_limits.THREADS if name in os.environ]


def test_machine_without_control_groups_is_used_whole(tmp_path: Path) -> None:
    assert container_limits.processors(tmp_path) == 32
    assert container_limits.memory(tmp_path) is None
    assert container_limits.slots(4, tmp_path) == 4


def test_libraries_start_as_many_threads_as_there_are_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")

    container_limits.limit_threads(container(tmp_path, "v2"))

    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1", "as the operator set it"


@pytest.mark.parametrize(
    ("cpus", "gibibytes", "expected"), [(2, 4, 3), (0.5, 64, 1), (16, 1, 1), (16, 3, 2), (16, 64, 4)]
)
def test_worker_has_no_more_slots_than_processors_and_memory_carry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpus: float, gibibytes: int, expected: int
) -> None:
    files = {"cpu.max": f"{int(cpus * 100000)} 100000", "memory.max": str(gibibytes << 30)}
    root = container(tmp_path, "v2", files)
    monkeypatch.setattr(container_limits.slots, "__defaults__", (root,))

    assert load_settings().queue.worker_slots == expected
    monkeypatch.setenv("PRELIM_WORKER_SLOTS", "9")
    assert load_settings().queue.worker_slots == 9


def test_listener_has_a_process_for_each_processor_of_its_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parent.processes(Settings()) == parent.MAX_DEFAULT_PROCESSES
    monkeypatch.setattr(container_limits.whole_processors, "__defaults__", (container(tmp_path, "v1"),))
    assert parent.processes(Settings()) == 2
