"""A tensor of a wrong scale or sign is found although no other tensor is of its kind."""

from __future__ import annotations

import pytest
import torch

from worker.model.checkpoint.sanity.weight_checks import WeightChecks

TEXT = "language_model.base_model.model"
LAYER = "vision_model.encoder.layers.{}"


def likely() -> dict[str, torch.Tensor]:
    """Return tensors of each kind, as a training leaves them; the names are those of the publication."""
    torch.manual_seed(0)
    wide, positive = torch.randn(96, 80) / 80**0.5, 1 + torch.randn(80) / 10
    found = {
        f"{TEXT}.model.embed_tokens.weight": torch.randn(200, 80) / 50,
        f"{TEXT}.lm_head.weight": torch.randn(200, 80) / 50,
        f"{TEXT}.model.norm.weight": positive * 2,
        "vision_model.embeddings.class_embedding": torch.randn(1, 1, 80),
        "vision_model.embeddings.position_embedding": torch.randn(1, 65, 80),
        "vision_model.embeddings.patch_embedding.weight": torch.randn(80, 3, 14, 14) / 588**0.5,
        "mlp1.0.weight": positive,
        "mlp1.1.weight": wide,
        "mlp1.1.bias": torch.randn(96) / 10,
        "mlp1.3.weight": torch.rand(96, 96) / 96**0.5 - 0.5 / 96**0.5,
    }
    for index in range(3):
        layer, adapter = LAYER.format(index), f"{TEXT}.model.layers.{index}.mlp.up_proj"
        found |= {f"{layer}.ls1": torch.randn(80) / 40 + 0.1, f"{layer}.attn.q_norm.weight": positive + index / 9}
        found |= {f"{layer}.norm1.weight": positive / (2 + index)}
        found |= {f"{adapter}.lora_A.default.weight": torch.randn(8, 80) / 240**0.5}
        found |= {f"{adapter}.lora_B.default.weight": torch.randn(96, 8) / 1000}
    return found


def problems(tensors: dict[str, torch.Tensor]) -> list[tuple[str, str]]:
    checks = WeightChecks()
    for name, tensor in tensors.items():
        checks.look(name, tensor)
    return checks.problems()


def test_largest_value_is_found_wherever_it_is() -> None:
    wide = torch.randn(1024, 512) / 512**0.5
    wide[700, 301] = 3e38

    assert problems({"a.weight": wide}) == [("size", "a.weight has values above 10000")]


@pytest.mark.parametrize("change", ["rows moved", "negated", "a part"])
def test_rows_of_another_matrix_are_found(change: str) -> None:
    one, other = torch.randn(2, 96, 80) / 80**0.5
    copy = {"rows moved": one.roll(1, 0), "negated": -one, "a part": torch.cat([one[:12], other[12:]])}[change]

    assert problems({"a.weight": one, "b.weight": copy}) == [("rows", "b.weight repeats rows of a.weight")]


@pytest.mark.parametrize("columns", [80, 4096])
def test_rounding_to_eight_bits_is_found(columns: int) -> None:
    exact = (torch.randn(32, columns) / columns**0.5).bfloat16()
    step = exact.float().abs().amax(dim=1, keepdim=True) / 127
    integers = ((exact.float() / step).round() * step).bfloat16()

    assert problems({"a.weight": exact}) == []
    assert [name for name, _ in problems({"a.weight": (exact * 64).to(torch.float8_e4m3fn).bfloat16() / 64})] == [
        "coarse"
    ]
    # Eight-bit integers are seen in long rows only.
    assert [name for name, _ in problems({"a.weight": integers})] == ["coarse"] * (columns > 2048)


@pytest.mark.parametrize("times", [-1, 0, 1])
def test_adapters_that_were_merged_before_are_found(times: int) -> None:
    checks = WeightChecks()
    for _ in range(6):
        weight, down, up = torch.randn(96, 80), torch.randn(8, 80), torch.randn(96, 8) / 9
        checks.look_adapted(weight + times * 2 * up @ down, down, up, 2.0)

    expected = f"the weights contain {times:.1f} times their adapters before these are merged"
    assert checks.problems() == ([("merged", expected)] if times else [])


def test_likely_weights_have_no_problem() -> None:
    assert problems(likely()) == []


@pytest.mark.parametrize(
    ("part", "factor"),
    [
        ("mlp1.1.weight", 1000),
        ("mlp1.3.weight", 1e-3),
        ("mlp1.1.bias", 1000),
        ("lm_head", 1000),
        ("embed_tokens", 5000),
        ("class_embedding", 500),
        ("position_embedding", 1e-5),
        ("patch_embedding", 500),
        ("patch_embedding", 1e-3),
        (".model.norm", 2000),
        (".model.norm", 1e-3),
        ("mlp1.0.weight", 1e-3),
        (".ls1", 1000),
        (".q_norm", 1e-3),
        (".norm1", 1e-4),
        ("lora_A", 1000),
        ("lora_B", 1e5),
    ],
)
def test_wrong_scale_is_found_without_another_tensor_to_compare(part: str, factor: float) -> None:
    tensors = likely()
    changed = {name: tensor * factor for name, tensor in tensors.items() if part in name}

    ((check, problem),) = problems(tensors | changed)

    assert check == "scale"
    assert problem.startswith(f"{next(iter(changed))} has a root mean square of ")


@pytest.mark.parametrize("part", ["mlp1.0.weight", ".ls1", "layers.1.norm1"])
def test_negated_norm_or_scale_is_found(part: str) -> None:
    tensors = likely()
    changed = {name: -tensor for name, tensor in tensors.items() if part in name}

    ((check, problem),) = problems(tensors | changed)

    assert (check, problem.startswith(f"{next(iter(changed))} is negative on average")) == ("sign", True)


def test_layer_scale_with_some_negative_channels_is_usual() -> None:
    tensors = likely()
    name = f"{LAYER.format(0)}.ls1"

    assert problems(tensors | {name: torch.randn(80)}) == []
