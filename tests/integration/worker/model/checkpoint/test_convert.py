from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, InternVLForConditionalGeneration

from db.errors import ConfigurationError
from tests.integration.worker.model.checkpoint.published_fixture import Publication
from worker.model.checkpoint import atomic, convert, digest
from worker.model.checkpoint.convert import convert_checkpoint
from worker.model.checkpoint.digest import check_shards, checkpoint_digest, file_digest
from worker.model.checkpoint.published import Published
from worker.model.checkpoint.random_weights import write_random_checkpoint
from worker.model.resident_model import ResidentModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.worker.model.conftest import Parity

    Change = Callable[[Publication], object]

LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
LAYER = "language_model.base_model.model.model.layers.0"
QUERY = f"{LAYER}.self_attn.q_proj"


def weights(directory: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = {}
    for shard in directory.glob("*.safetensors"):
        loaded |= load_file(shard)
    return loaded


def refused(source: Path, target: Path, message: str, **options: Any) -> None:
    """One clear sentence, and nothing left behind."""
    before = set(target.parent.iterdir())
    with pytest.raises(ConfigurationError, match=message) as raised:
        convert_checkpoint(source, target, **options)
    assert "\n" not in str(raised.value)
    assert set(target.parent.iterdir()) == before


def test_low_rank_updates_are_merged_in_float32_and_rounded_once(parity: Parity, tmp_path: Path) -> None:
    tensors = Publication(parity.checkpoint).tensors
    down, up = (tensors[f"{QUERY}.lora_{half}.default.weight"].float() for half in "AB")
    merged = tensors[f"{QUERY}.base_layer.weight"].float() + 2.0 * (up @ down)

    convert_checkpoint(parity.checkpoint, tmp_path / "converted")

    found = weights(tmp_path / "converted")["model.language_model.layers.0.self_attn.q_proj.weight"]
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, merged.to(torch.bfloat16))


def without_adapter_name(publication: Publication) -> None:
    publication.rename(lambda name: name.replace(".default.weight", ".weight"))


def without_base_layer(publication: Publication) -> None:
    publication.rename(lambda name: name.replace(".base_layer.", "."))


def without_wrapper(publication: Publication) -> None:
    publication.rename(lambda name: name.replace("base_model.model.", ""))


@pytest.mark.parametrize("change", [without_adapter_name, without_base_layer, without_wrapper])
def test_every_way_peft_names_its_tensors_gives_the_same_weights(
    parity: Parity, converted: Path, tmp_path: Path, change: Change
) -> None:
    publication = Publication(parity.checkpoint)
    change(publication)

    convert_checkpoint(publication.write(tmp_path / "published"), tmp_path / "converted", dtype="float32")

    found, expected = weights(tmp_path / "converted"), weights(converted)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def merge_by_hand(publication: Publication) -> None:
    """What a publication without updates would hold."""
    tensors = {name: tensor.float() for name, tensor in publication.tensors.items()}
    for name in [name for name in tensors if ".lora_A." in name]:
        down, up = tensors.pop(name), tensors.pop(name.replace("lora_A", "lora_B"))
        tensors[name.replace("lora_A.default", "base_layer")] += 2.0 * (up @ down)
    publication.tensors = tensors
    publication.rename(lambda name: name.replace(".base_layer.", ".").replace("base_model.model.", ""))
    publication.config["use_llm_lora"] = 0


def test_a_publication_without_lora_is_converted_as_it_is(parity: Parity, converted: Path, tmp_path: Path) -> None:
    publication = Publication(parity.checkpoint)
    merge_by_hand(publication)

    convert_checkpoint(publication.write(tmp_path / "published"), tmp_path / "converted", dtype="float32")

    expected = weights(converted)
    assert all(torch.allclose(t, expected[n], atol=1e-6) for n, t in weights(tmp_path / "converted").items())


def narrow(publication: Publication) -> None:
    """Another rank, another depth of both towers and a smaller image."""
    tensors = publication.tensors
    gone = re.compile(r"vision_model\.encoder\.layers\.2\.|\.model\.layers\.3\.")
    publication.tensors = {name: tensor for name, tensor in tensors.items() if not gone.search(name)}
    for name, tensor in publication.tensors.items():
        if ".lora_A." in name:
            publication.tensors[name] = tensor[:4].contiguous()
        if ".lora_B." in name:
            publication.tensors[name] = tensor[:, :4].contiguous()
    position = "vision_model.embeddings.position_embedding"
    publication.tensors[position] = tensors[position][:, : 1 + 16 * 16].contiguous()
    publication.config |= {"use_llm_lora": 4, "force_image_size": 224}
    publication.config["vision_config"] |= {"num_hidden_layers": 2, "image_size": 224}
    publication.config["llm_config"] |= {"num_hidden_layers": 3}


def test_other_dimensions_are_read_from_the_configuration(parity: Parity, tmp_path: Path) -> None:
    publication = Publication(parity.checkpoint)
    narrow(publication)
    convert_checkpoint(publication.write(tmp_path / "published"), tmp_path / "converted")

    model = ResidentModel.load(tmp_path / "converted", device="cpu", context_tokens=256)
    prompt = model._make_prompt("", [parity.image(parity.cases[0])])
    model.close()

    assert prompt.pixel_values is not None
    assert prompt.pixel_values.shape == (1, 3, 224, 224)
    assert prompt.input_ids.tolist().count(model._model.config.image_token_id) == 8 * 8


def test_updates_of_the_vision_tower_are_merged_before_it_is_cut_in_three(parity: Parity, tmp_path: Path) -> None:
    publication = Publication(parity.checkpoint)
    linear = re.compile(r"(vision_model)(\.encoder\.layers\.\d+\.(?:attn\.(?:qkv|proj)|mlp\.fc[12]))\.weight")
    generator = torch.Generator().manual_seed(0)
    tensors = publication.tensors
    for name in [name for name in tensors if linear.fullmatch(name)]:
        out, into = tensors[name].shape
        wrapped = linear.sub(r"\1.base_model.model\2", name)
        tensors[f"{wrapped}.base_layer.weight"] = tensors.pop(name)
        tensors[f"{wrapped}.lora_A.default.weight"] = torch.randn(4, into, generator=generator)
        tensors[f"{wrapped}.lora_B.default.weight"] = torch.randn(out, 4, generator=generator)
    publication.config["use_backbone_lora"] = 4
    layer = "vision_model.base_model.model.encoder.layers.1.attn.qkv"
    down, up = (tensors[f"{layer}.lora_{half}.default.weight"] for half in "AB")
    merged = tensors[f"{layer}.base_layer.weight"].float() + 2.0 * (up @ down)

    convert_checkpoint(publication.write(tmp_path / "published"), tmp_path / "converted", dtype="float32")

    found = weights(tmp_path / "converted")
    parts = [found[f"model.vision_tower.encoder.layer.1.attention.{part}_proj.weight"] for part in "qkv"]
    assert torch.allclose(torch.cat(parts), merged, atol=1e-6)


def drop(name: str) -> Change:
    return lambda publication: publication.tensors.pop(name)


def add(name: str) -> Change:
    return lambda publication: publication.tensors.update({name: torch.zeros(2)})


def transpose(name: str) -> Change:
    return lambda publication: publication.tensors.update({name: publication.tensors[name].T.contiguous()})


def configure(**values: Any) -> Change:
    return lambda publication: publication.config.update(values)


def configure_text(**values: Any) -> Change:
    return lambda publication: publication.config["llm_config"].update(values)


def newer_rope(**values: Any) -> Change:
    """The base of the positions' angles where transformers 5 writes it."""
    parameters = {"rope_theta": 5e6, "rope_type": "default", **values}
    return lambda publication: publication.config["llm_config"].update(rope_theta=None, rope_parameters=parameters)


def configure_vision(**values: Any) -> Change:
    return lambda publication: publication.config["vision_config"].update(values)


def put(name: str, tensor: torch.Tensor) -> Change:
    return lambda publication: publication.tensors.update({name: tensor})


def forget(key: str) -> Change:
    return lambda publication: publication.config.pop(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add("language_model.base_model.model.model.layers.0.surprise"), "surprise of the checkpoint is unknown"),
        (drop("vision_model.encoder.layers.1.ls1"), "encoder.layer.1.lambda_1 is missing"),
        (drop(f"{QUERY}.base_layer.weight"), "belong to no weight"),
        (drop(f"{QUERY}.lora_A.default.weight"), "lora_B but not its other half"),
        (drop("language_model.base_model.model.lm_head.weight"), "lm_head.weight is missing"),
        (transpose("mlp1.1.weight"), r"mlp1.1.weight gives \(320, 96\) where config.json asks for \(96, 320\)"),
        (transpose(f"{QUERY}.lora_B.default.weight"), "do not fit"),
        (configure(use_llm_lora=16), "use_llm_lora = 16, but the checkpoint's layers have LoRA tensors of rank 8"),
        (configure(use_llm_lora=0), "use_llm_lora = 0, but the checkpoint's layers have LoRA tensors of rank 8"),
        (configure(architectures=["LlavaForConditionalGeneration"]), "architectures = .*InternVLChatModel"),
        (configure_text(architectures=["InternLM2ForCausalLM"]), "only .*LlamaForCausalLM"),
        (configure(model_type="llava"), "model_type = 'llava'"),
        (configure_text(model_type="qwen2"), "llm_config.model_type = 'qwen2'"),
        (configure_text(rope_scaling={"type": "linear", "factor": 2.0}), "llm_config.rope_scaling = .*only None"),
        (configure_text(eos_token_id=99_999), "eos_token_id = 99999, where a token below 729 is needed"),
        (configure_vision(architectures=["CLIPVisionModel"]), "vision_config.architectures"),
        (configure(template="internlm2-chat"), "template = 'internlm2-chat'"),
        (configure(dynamic_image_size=True), "dynamic_image_size"),
        (configure(ps_version="v3"), "ps_version"),
        (configure_text(vocab_size=700), "729 tokens, the model knows 700"),
        (configure_text(num_hidden_layers=5), "llm_config.num_hidden_layers = 5, but the checkpoint has 4 layers"),
        (configure_text(num_hidden_layers=10**9), "llm_config.num_hidden_layers = 10+, but the checkpoint has 4"),
        (configure_vision(num_hidden_layers=10**9), "vision_config.num_hidden_layers = 10+, but the checkpoint has 3"),
        (configure_text(rope_theta=None), "lacks llm_config.rope_theta"),
        (configure_text(rope_theta=0), "rope_theta = 0, where a number above 0"),
        (configure_text(rope_theta=-5e6), "rope_theta = -5000000.0, where a number above 0"),
        (configure_text(rope_theta=math.inf), "rope_theta = inf, where a number above 0"),
        (configure_text(rope_theta="5e6"), "rope_theta = '5e6', where a number above 0"),
        (newer_rope(rope_theta=None), "lacks llm_config.rope_theta"),
        (newer_rope(rope_theta=0), "rope_theta = 0, where a number above 0"),
        (newer_rope(rope_type="linear", factor=2.0), "llm_config.rope_parameters = .*linear.*, but only"),
        (
            configure_text(rope_parameters={"rope_theta": 1e4}),
            "rope_parameters.rope_theta = 10000.0, but only 50+",
        ),
        (configure_text(rope_parameters=[5e6]), "rope_parameters = .*, where a table"),
        (configure_text(pad_token_id=-7), "llm_config.pad_token_id = -7, where a token below 729"),
        (configure_text(bos_token_id=729), "llm_config.bos_token_id = 729, where a token below 729"),
        (configure_text(hidden_size="wide"), "llm_config.hidden_size = 'wide', where a whole number above 0 is needed"),
        (configure_text(num_attention_heads=0), "llm_config.num_attention_heads = 0"),
        (configure_text(num_hidden_layers=-1), "llm_config.num_hidden_layers = -1"),
        (configure_text(hidden_act="zork"), "describes no model that can be built: .*zork"),
        (configure_text(rope_scaling="linear"), "config.json "),
        (configure_vision(patch_size=0), "vision_config.patch_size = 0"),
        (configure_vision(qk_normalization=None), "lacks vision_config.qk_normalization"),
        (configure(force_image_size="large"), "force_image_size = 'large'"),
        (configure(use_llm_lora="x"), "use_llm_lora = 'x', where a rank is needed"),
        (configure(select_layer=99), "select_layer = 99, where a layer from -4 to 3"),
        (configure(downsample_ratio=0.3), "downsample_ratio = 0.3"),
        (put("vision_model.encoder.layers.0.attn.qkv.weight", torch.zeros(145, 48)), "cannot be cut in three"),
        (put("vision_model.encoder.layers.0.attn.qkv.weight", torch.tensor(1.0)), "cannot be cut in three"),
        (put(f"{QUERY}.lora_A.default.weight", torch.tensor(1.0)), "do not fit"),
        (put("mlp1.0.bias", torch.ones(320, dtype=torch.int64)), "holds I64 numbers"),
        (put("mlp1.0.bias", torch.ones(320).to(torch.float8_e4m3fn)), "holds F8_E4M3 numbers"),
        (put(f"{QUERY}.weight", torch.zeros(2, 2)), "are both .*q_proj.weight: only one"),
        (put(f"{QUERY}.lora_A.weight", torch.zeros(2, 2)), "are both .*q_proj.lora_A.weight: only one"),
        (put("language_model.lm_head.weight", torch.zeros(2, 2)), "are both .*lm_head.weight: only one"),
        (put("lm_head.weight", torch.zeros(2, 2)), "are both lm_head.weight: only one"),
        (forget("vision_config"), "no vision_config"),
        (forget("downsample_ratio"), "lacks downsample_ratio"),
    ],
)
def test_what_is_not_exactly_as_expected_is_refused(
    parity: Parity, tmp_path: Path, change: Change, message: str
) -> None:
    publication = Publication(parity.checkpoint)
    change(publication)

    refused(publication.write(tmp_path / "published"), tmp_path / "converted", message)


@pytest.mark.parametrize(
    "change", [newer_rope(), configure_text(rope_parameters={"rope_theta": 5e6, "rope_type": "default"})]
)
def test_the_base_of_the_positions_is_read_from_where_either_transformers_writes_it(
    parity: Parity, tmp_path: Path, change: Change
) -> None:
    publication = Publication(parity.checkpoint)
    change(publication)

    convert_checkpoint(publication.write(tmp_path / "published"), tmp_path / "converted")

    text = AutoConfig.from_pretrained(tmp_path / "converted").text_config
    assert text.rope_parameters == {"rope_theta": 5e6, "rope_type": "default"}


def test_a_ratio_of_one_may_be_written_as_a_whole_number(parity: Parity) -> None:
    publication = Publication(parity.checkpoint)
    publication.config["downsample_ratio"] = 1
    published = Published(publication.config)
    published.check()

    ratio = published.stock(0).downsample_ratio

    assert (ratio, type(ratio)) == (1.0, float)


def test_a_layer_without_its_update_is_refused_where_the_others_have_one(parity: Parity, tmp_path: Path) -> None:
    publication = Publication(parity.checkpoint)
    for half in "AB":
        publication.tensors.pop(f"{QUERY}.lora_{half}.default.weight")

    refused(publication.write(tmp_path / "published"), tmp_path / "converted", "of rank 0 and 8")


def test_truncated_and_damaged_shards_are_refused(parity: Parity, tmp_path: Path) -> None:
    source = Publication(parity.checkpoint).write(tmp_path / "published")
    shard = source / "model.safetensors"
    whole = shard.read_bytes()

    shard.write_bytes(whole[: len(whole) // 2])
    refused(source, tmp_path / "converted", "model.safetensors is truncated or damaged")

    shard.write_bytes(b"\xff" * 16 + whole[16:])
    refused(source, tmp_path / "converted", "model.safetensors is truncated or damaged")

    shard.write_bytes(whole[:-200] + b"\xff" * 200)
    refused(source, tmp_path / "converted", "holds numbers that are not finite")


def test_a_missing_shard_is_named(parity: Parity, tmp_path: Path) -> None:
    source = Publication(parity.checkpoint).write(tmp_path / "published")
    index = {"weight_map": {"mlp1.0.bias": "model-00002-of-00002.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))

    refused(source, tmp_path / "converted", "model-00002-of-00002.safetensors is missing")


def test_layers_that_are_missing_are_said_before_their_updates(parity: Parity, tmp_path: Path) -> None:
    publication = Publication(parity.checkpoint)
    for name in [name for name in publication.tensors if "layers.3.mlp" in name]:
        del publication.tensors[name]

    refused(publication.write(tmp_path / "published"), tmp_path / "converted", "layers.3.mlp.*is missing")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "[]", "config.json cannot be used: it is no table"),
        ("config.json", "null", "config.json cannot be used: it is no table"),
        ("tokenizer.model", LFS_POINTER, "tokenizer.model is a Git LFS pointer"),
        ("model.safetensors", LFS_POINTER, "model.safetensors is a Git LFS pointer"),
        ("config.json", "[" * 100_000, "config.json cannot be read"),
        ("tokenizer.model", "\x0f", "tokenizer.model is no SentencePiece model, or it is damaged"),
        ("tokenizer.model", "", "not a tokenizer that can be converted"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json cannot be read: it is no table"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "list of added tokens"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"x": {"content": "q"}}}', "list of added tokens"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"730": {}}}', "list of added tokens"),
        ("tokenizer_config.json", '{"eos_token": {}}', "tokenizer in .* cannot be converted"),
        ("model.safetensors.index.json", '{"weight_map": ["mlp1.0.bias"]}', "index.json cannot be read"),
        ("model.safetensors.index.json", '{"weight_map": null}', "index.json cannot be read"),
        ("model.safetensors.index.json", '{"weight_map": {"mlp1.0.bias": 3}}', "index.json cannot be read"),
        ("model.safetensors.index.json", '{"weight_map": {"mlp1.0.bias": "/etc/passwd"}}', "index.json cannot be read"),
    ],
)
def test_a_file_of_another_kind_is_one_sentence(
    parity: Parity, tmp_path: Path, name: str, content: str, message: str
) -> None:
    source = Publication(parity.checkpoint).write(tmp_path / "published")
    (source / name).write_text(content)

    refused(source, tmp_path / "converted", message)


def test_a_tokenizer_without_the_words_around_a_image_is_refused(parity: Parity, tmp_path: Path) -> None:
    source = Publication(parity.checkpoint).write(tmp_path / "published")
    for name in ("tokenizer_config.json", "added_tokens.json"):
        (source / name).write_text("{}")

    refused(source, tmp_path / "converted", "has no token <img>")


def test_an_index_that_names_the_wrong_shard_is_refused(parity: Parity, tmp_path: Path) -> None:
    source = Publication(parity.checkpoint).write(tmp_path / "published")
    save_file({"surprise": torch.zeros(1)}, source / "other.safetensors")
    index = {"weight_map": {"mlp1.0.bias": "other.safetensors", "mlp1.0.weight": "model.safetensors"}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))

    refused(source, tmp_path / "converted", "mlp1.0.bias lies in model.safetensors, but .* says in other.safetensors")


def test_a_shard_that_the_index_does_not_name_is_refused(parity: Parity, tmp_path: Path) -> None:
    publication = Publication(parity.checkpoint)
    source = publication.write(tmp_path / "published")
    index = {"weight_map": dict.fromkeys(publication.tensors, "model.safetensors")}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"surprise": torch.zeros(1)}, source / "other.safetensors")

    refused(source, tmp_path / "converted", "other.safetensors lies among the shards, but .* does not name it")


def test_numbers_too_large_for_the_format_asked_for_are_refused(parity: Parity, tmp_path: Path) -> None:
    publication = Publication(parity.checkpoint)
    publication.tensors["mlp1.0.bias"][3] = 1e30
    source = publication.write(tmp_path / "published")

    refused(source, tmp_path / "converted", "too large for float16: choose another --dtype", dtype="float16")
    convert_checkpoint(source, tmp_path / "converted", dtype="bfloat16")


def test_progress_goes_on_while_the_publication_is_read_once_more(parity: Parity, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    convert_checkpoint(parity.checkpoint, tmp_path / "converted", on_bytes=lambda *bytes_: told.append(bytes_))

    done = [count for count, _ in told]
    assert done == sorted(done)
    assert {total for _, total in told} == {done[-1]}


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "tokenizer_config.json"])
def test_a_missing_or_broken_side_file_is_named(parity: Parity, tmp_path: Path, name: str) -> None:
    source = Publication(parity.checkpoint).write(tmp_path / "published")

    (source / name).write_bytes(b"\x0a\xff{")
    refused(source, tmp_path / "converted", name)

    (source / name).unlink()
    refused(source, tmp_path / "converted", name)


def test_no_room_on_the_disk_is_said_before_anything_is_written(
    parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "MARGIN_BYTES", 10**18)

    refused(parity.checkpoint, tmp_path / "converted", "GB free, the converted checkpoint needs")


def test_an_existing_destination_is_left_alone(parity: Parity, tmp_path: Path) -> None:
    (tmp_path / "converted").mkdir()

    refused(parity.checkpoint, tmp_path / "converted", "exists already")


def test_a_destination_that_leads_nowhere_is_refused_before_anything_is_read(parity: Parity, tmp_path: Path) -> None:
    (tmp_path / "converted").symlink_to(tmp_path / "nowhere" / "converted")

    refused(parity.checkpoint, tmp_path / "converted", "exists already")


def test_folders_made_for_a_conversion_that_fails_go_with_it(parity: Parity, tmp_path: Path) -> None:
    publication = Publication(parity.checkpoint)
    publication.tensors["mlp1.0.bias"][3] = torch.nan
    source = publication.write(tmp_path / "published")

    with pytest.raises(ConfigurationError, match="not finite"):
        convert_checkpoint(source, tmp_path / "models" / "new" / "converted")

    assert list(tmp_path.iterdir()) == [source]


def test_a_converted_checkpoint_can_be_read_by_the_user_who_runs_the_worker(parity: Parity, tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        convert_checkpoint(parity.checkpoint, tmp_path / "converted")
        write_random_checkpoint(tmp_path / "random")
    finally:
        os.umask(before)

    for directory in (tmp_path / "converted", tmp_path / "random"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
        assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o644}


def test_an_interrupted_conversion_leaves_nothing_behind(parity: Parity, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(parity.checkpoint, tmp_path / "converted", on_bytes=interrupt)

    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time
from pathlib import Path
from worker.model.checkpoint.convert import convert_checkpoint
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]), shard_bytes=10**5,
                   on_bytes=lambda done, total: (print(done, flush=True), time.sleep(0.05)))
"""


def test_a_killed_conversion_leaves_nothing_that_loads_and_can_be_run_again(parity: Parity, tmp_path: Path) -> None:
    target = tmp_path / "converted"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(parity.checkpoint), str(target)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process.stdout:
        for _ in range(20):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    process.wait(10)

    (left,) = tmp_path.iterdir()
    for directory in (left, target):
        with pytest.raises(ConfigurationError):
            ResidentModel.load(directory, device="cpu")
    convert_checkpoint(parity.checkpoint, target)
    assert list(tmp_path.iterdir()) == [target]


def test_only_what_a_dead_conversion_left_is_cleared_away(parity: Parity, tmp_path: Path) -> None:
    source = tmp_path / "meddr.partial"
    shutil.copytree(parity.checkpoint, source)
    others = [tmp_path / name for name in (".meddr.unfinished-mine", ".other.unfinished-1", "meddr.old")]
    for other in others:
        other.mkdir()
        (other / "kept").touch()
    (others[1] / atomic.MARKER).touch()
    dead = tmp_path / ".meddr.unfinished-1"
    dead.mkdir()
    (dead / atomic.MARKER).touch()

    convert_checkpoint(source, tmp_path / "meddr")

    assert (source / "config.json").is_file()
    assert all((other / "kept").exists() for other in others)
    assert not dead.exists()


def test_of_two_conversions_to_one_place_one_wins_and_the_other_says_so(parity: Parity, tmp_path: Path) -> None:
    target = tmp_path / "converted"
    second: list[bool] = []

    def convert_meanwhile(done: int, total: int) -> None:
        if done > total // 3 and not second:
            second.append(True)
            convert_checkpoint(parity.checkpoint, target, dtype="float32")

    with pytest.raises(ConfigurationError, match="cannot be written: .*not empty"):
        convert_checkpoint(parity.checkpoint, target, dtype="bfloat16", on_bytes=convert_meanwhile)

    assert list(tmp_path.iterdir()) == [target]
    assert not (target / atomic.MARKER).exists()
    assert {tensor.dtype for tensor in weights(target).values()} == {torch.float32}
    check_shards(target)


def test_room_that_a_killed_run_takes_counts_as_free(
    parity: Parity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = tmp_path / ".converted.unfinished-1"
    dead.mkdir()
    (dead / atomic.MARKER).touch()
    full, roomy = shutil.disk_usage(tmp_path)._replace(free=0), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full if dead.exists() else roomy)

    convert_checkpoint(parity.checkpoint, tmp_path / "converted")


MEASURED = """
import resource, sys
from pathlib import Path
from worker.model.checkpoint.convert import convert_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert_checkpoint(Path(sys.argv[1]), Path(sys.argv[2]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def widen(publication: Publication, directory: Path) -> int:
    """Many layers in shards of 40 MB; returns a shard's size."""
    layers, width, intermediate = 24, 512, 2048
    config = publication.config["llm_config"]
    config |= {"hidden_size": width, "intermediate_size": intermediate, "num_hidden_layers": layers, "head_dim": 64}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 8}
    publication.config["use_llm_lora"] = 0
    tensors = {n: t for n, t in publication.tensors.items() if n.startswith(("vision_model", "mlp1.0"))}
    tensors |= {"mlp1.1.weight": torch.zeros(width, 320), "mlp1.1.bias": torch.zeros(width)}
    tensors |= {"mlp1.3.weight": torch.zeros(width, width), "mlp1.3.bias": torch.zeros(width)}
    tensors |= {"language_model.lm_head.weight": torch.zeros(729, width)}
    tensors |= {"language_model.model.embed_tokens.weight": torch.zeros(729, width)}
    tensors |= {"language_model.model.norm.weight": torch.zeros(width)}
    publication.tensors = tensors
    publication.write(directory)
    shapes: dict[str, tuple[int, ...]] = {f"self_attn.{p}_proj": (width, width) for p in "qkvo"}
    shapes |= {"mlp.gate_proj": (intermediate, width), "mlp.up_proj": (intermediate, width)}
    shapes |= {
        "mlp.down_proj": (width, intermediate),
        "input_layernorm": (width,),
        "post_attention_layernorm": (width,),
    }
    for layer in range(layers):
        shard = {f"language_model.model.layers.{layer}.{n}.weight": torch.zeros(s) for n, s in shapes.items()}
        save_file(shard, directory / f"model-{layer}.safetensors")
    return (directory / "model-0.safetensors").stat().st_size


def test_memory_stays_under_two_shards_and_the_largest_tensor(parity: Parity, tmp_path: Path) -> None:
    shard = widen(Publication(parity.checkpoint), tmp_path / "published")
    total = sum(path.stat().st_size for path in (tmp_path / "published").glob("*.safetensors"))

    run = subprocess.run(
        [sys.executable, "-c", MEASURED, tmp_path / "published", tmp_path / "converted"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(run.stdout) < 2 * shard + shard // 4 < total // 4


def test_a_plain_load_that_would_shuffle_wrongly_does_not_get_through(converted: Path) -> None:
    script = "import sys; from transformers import AutoModelForImageTextToText as A; A.from_pretrained(sys.argv[1])"
    plain = subprocess.run([sys.executable, "-c", script, converted], capture_output=True, text=True, check=False)
    assert plain.returncode != 0
    assert "internvl_pixel_shuffle_v1" in plain.stderr

    forced = InternVLForConditionalGeneration.from_pretrained(converted)
    with pytest.raises(ValueError, match="select feature strategy"):
        forced.get_image_features(torch.zeros(1, 3, 448, 448))


def test_saving_and_loading_again_keeps_the_shuffle(converted: Path, tmp_path: Path) -> None:
    model = AutoModelForImageTextToText.from_pretrained(converted)
    model.save_pretrained(tmp_path)

    again = AutoModelForImageTextToText.from_pretrained(tmp_path)

    pixels = torch.randn(1, 3, 448, 448, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = [m.get_image_features(pixels).pooler_output for m in (model, again)]
    assert torch.equal(*features)


def test_the_record_says_what_was_done(converted: Path, parity: Parity) -> None:
    record = json.loads((converted / "prelim.json").read_text())

    assert record["lora_tensors_merged"] == 4 * 7
    assert record["pixel_shuffle"] == "v1"
    assert len(record["converted_from"]) == len(list(parity.checkpoint.glob("*.safetensors"))) + 2
    check_shards(converted)


def test_the_digest_follows_weights_configuration_and_tokenizer(converted: Path, tmp_path: Path) -> None:
    digests = {checkpoint_digest(converted)}
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "model-00001-of-00004.safetensors"):
        changed = tmp_path / name
        shutil.copytree(converted, changed)
        with (changed / name).open("ab") as file:
            file.write(b" ")
        digests.add(checkpoint_digest(changed))

    assert len(digests) == 5


def test_weights_changed_in_place_change_the_digest(converted: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(converted, changed)
    check_shards(changed)
    before = checkpoint_digest(changed)
    shard = changed / "model-00001-of-00004.safetensors"
    with shard.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))

    assert checkpoint_digest(changed) != before == checkpoint_digest(converted)


def test_shards_that_nobody_touched_are_not_read_at_every_start(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(directory: Path) -> set[str]:
        """Of the shards."""
        names: set[str] = set()
        monkeypatch.setattr(digest, "file_digest", lambda path: names.add(path.name) or file_digest(path))
        checkpoint_digest(directory)
        monkeypatch.undo()
        return {name for name in names if name.endswith(".safetensors")}

    copied = tmp_path / "copied"
    shutil.copytree(converted, copied)

    assert read(converted) == set()
    assert len(read(copied)) == 4
    check_shards(copied)
    assert read(copied) == set()


def test_a_converted_checkpoint_is_the_same_bytes_every_time(parity: Parity, tmp_path: Path) -> None:
    for name in ("one", "two"):
        convert_checkpoint(parity.checkpoint, tmp_path / name)

    assert checkpoint_digest(tmp_path / "one") == checkpoint_digest(tmp_path / "two")
