from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

from worker.model import placement

if TYPE_CHECKING:
    from pathlib import Path

GIB = 2**30


def gpus(monkeypatch: pytest.MonkeyPatch, *free: int) -> None:
    memory: dict[int | str, int] = {"cpu": 64 * GIB, **dict(enumerate(free))}
    monkeypatch.setattr(placement, "get_max_memory", lambda: memory)


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    """Weights of 10 GiB in a sparse file."""
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(10 * GIB)
    return tmp_path


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        ((), {"": "cpu"}),
        ((16 * GIB,), {"": "cuda:0"}),
        ((8 * GIB,), {"": "cuda:0"}),
        ((12 * GIB, 40 * GIB), {"": "cuda:1"}),
        ((8 * GIB, 8 * GIB), "auto"),
        ((11 * GIB, 11 * GIB), "auto"),
    ],
)
def test_auto_prefers_one_gpu_that_holds_the_model(
    heavy: Path, monkeypatch: pytest.MonkeyPatch, free: tuple[int, ...], expected: object
) -> None:
    gpus(monkeypatch, *free)

    assert placement.place(heavy, "auto")["device_map"] == expected


def test_several_gpus_keep_memory_for_the_kv_cache(heavy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 8 * GIB, 8 * GIB)

    limits = placement.place(heavy, "auto")["max_memory"]

    assert limits.keys() == {0, 1}, "no layer goes to the CPU"
    assert all(limit < 8 * GIB for limit in limits.values())


def test_device_with_the_least_room_limits_the_rows() -> None:
    large, small = torch.device("cuda:0"), torch.device("cuda:1")

    rows = placement.rows_that_fit({large: 1000, small: 3000}, 100, {large: 10**6, small: 10**6})

    assert rows == int(placement.CACHE_SHARE * 10**6) // (3000 * 100)


def test_memory_limit_applies_to_placement_and_free_memory(heavy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 40 * GIB, 40 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 5 * GIB)
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")

    assert placement.place(heavy, "auto", limit=11 * GIB)["device_map"] == "auto"
    assert placement.free_memory([gpu, cpu], 8 * GIB) == {gpu: 3 * GIB, cpu: 64 * GIB}


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_quantization_skips_the_vision_tower(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "find_spec", lambda _: object())

    quantizer = placement.quantizer(name)

    assert quantizer.load_in_8bit == (name == "int8")
    assert quantizer.load_in_4bit == (name == "int4")
    assert {"vision_tower", "multi_modal_projector"} <= set(quantizer.llm_int8_skip_modules)


def test_quantization_is_off_by_default() -> None:
    assert placement.quantizer(None) is None


def test_gpus_have_the_names_of_nvidia_smi_and_others_host_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    uuid = "30a3b1f2-0c55-4f0e-9d3e-6a1f4c1f7a11"
    properties = [SimpleNamespace(uuid=uuid), SimpleNamespace()]
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    devices = map(torch.device, ("cuda:1", "cpu", "cuda:0", "cuda:1"))

    assert placement.gpu_names(devices) == [f"GPU-{uuid}", f"{socket.gethostname()}/1"]
    assert placement.gpu_names([torch.device("cpu")]) == []
