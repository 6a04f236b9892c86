"""Damage to a tiny checkpoint in the published layout, by name: each function changes one thing."""

from __future__ import annotations

import json
import shutil
import struct
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from worker.model.checkpoint.published import LORA_SCALE
from worker.model.checkpoint.sentencepiece import Kind, Model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Damage = Callable[[Path], object]

TEXT = "language_model.base_model.model.model.layers"
QUERY = f"{TEXT}.1.self_attn.q_proj"
VISION = "vision_model.encoder.layers"


def copy_publication(original: Path, directory: Path) -> Path:
    """Copy a publication in which a test may change every file."""
    shutil.copytree(original, directory)
    for path in [directory, *directory.iterdir()]:
        path.chmod(0o755)
    return directory


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Change the weights; they are written back to their own shards."""

    def damage(directory: Path) -> None:
        shards = {path: load_file(path) for path in sorted(directory.glob("*.safetensors"))}
        place = {name: path for path, found in shards.items() for name in found}
        together = {name: tensor for found in shards.values() for name, tensor in found.items()}
        change(together)
        last = max(shards)
        place |= {name: last for name in together if name not in place}
        for path in shards:
            save_file({n: t.contiguous() for n, t in together.items() if place[n] == path}, path)

    return damage


def weight(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """Change one tensor."""
    return weights(lambda found: found.update({name: change(found[name])}))


def every(part: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    """Change all tensors with *part* in their names."""
    return weights(lambda found: found.update({name: change(t) for name, t in found.items() if part in name}))


def copy_weight(to: str, source: str) -> Damage:
    return weights(lambda found: found.update({to: found[source].clone()}))


def swap_weights(one: str, two: str) -> Damage:
    return weights(lambda found: found.update({one: found[two], two: found[one]}))


def merge_adapters(found: dict[str, torch.Tensor]) -> None:
    """Merge each adapter into its weight, and leave it."""
    for name in [name for name in found if name.endswith(".base_layer.weight")]:
        down, up = (found[name.replace("base_layer", f"lora_{part}.default")].float() for part in "AB")
        found[name] = (found[name].float() + LORA_SCALE * up @ down).to(found[name].dtype)


def put(**shapes: tuple[int, int]) -> Damage:
    """Add matrices of random values; the index does not list them."""
    return weights(lambda found: found.update({n: torch.randn(*s).bfloat16() for n, s in shapes.items()}))


def replace_bytes(name: str, place: int, data: bytes) -> Damage:
    """Overwrite a part of a file; a negative place counts from the end."""

    def damage(directory: Path) -> None:
        with (directory / name).open("r+b") as file:
            file.seek(place, 2 if place < 0 else 0)
            file.write(data)

    return damage


def json_file(name: str, **values: Any) -> Damage:
    """Set values of a JSON file, by dotted paths with `__` for the dots; creates the file."""

    def damage(directory: Path) -> None:
        path = directory / name
        stored = json.loads(path.read_text()) if path.exists() else {}
        for place, value in values.items():
            *parts, last = place.split("__")
            part = stored
            for key in parts:
                part = part[key]
            part[last] = value
        path.write_text(json.dumps(stored))

    return damage


def config(**values: Any) -> Damage:
    return json_file("config.json", **values)


def without(name: str, *places: str) -> Damage:
    """Remove values of a JSON file."""

    def damage(directory: Path) -> None:
        stored = json.loads((directory / name).read_text())
        for place in places:
            *parts, last = place.split("__")
            part = stored
            for key in parts:
                part = part[key]
            del part[last]
        (directory / name).write_text(json.dumps(stored))

    return damage


def zero_second_half(tensor: torch.Tensor) -> torch.Tensor:
    """As a truncated download that was filled with zeros."""
    flat = tensor.clone().reshape(-1)
    flat[len(flat) // 2 :] = 0
    return flat.reshape(tensor.shape)


def round_to_eight_bits(tensor: torch.Tensor) -> torch.Tensor:
    """As weights that were quantized, and written in their old format."""
    return tensor.to(torch.float8_e4m3fn).to(tensor.dtype)


def misread(as_type: torch.dtype, stored: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Take the bits of one number format for another's of the same width."""
    return lambda tensor: tensor.to(stored).view(as_type)


def pieces(change: Callable[[list[tuple[str, float, int]]], object]) -> Damage:
    """Change the pieces of tokenizer.model, as text, score and kind."""

    def damage(directory: Path) -> None:
        path = directory / "tokenizer.model"
        found = [(piece.text, piece.score, piece.kind) for piece in Model.read(path).pieces]
        data = path.read_bytes()
        # The pieces are the first fields of the file.
        rest = data[sum(len(_piece(*piece)) for piece in found) :]
        change(found)
        path.write_bytes(b"".join(_piece(*piece) for piece in found) + rest)

    return damage


def swap_pieces(one: int, two: int, *, scores: bool = True) -> Damage:
    """Exchange two pieces, with their scores or only their texts."""

    def change(found: list[tuple[str, float, int]]) -> None:
        first, second = found[one], found[two]
        found[one] = second if scores else (second[0], *first[1:])
        found[two] = first if scores else (first[0], *second[1:])

    return pieces(change)


def equal_scores(found: list[tuple[str, float, int]]) -> None:
    """Give all normal pieces the same score, so that no order of merging is left."""
    found[:] = [(text, 0.0 if kind == Kind.NORMAL else score, kind) for text, score, kind in found]


def rotate_pieces(found: list[tuple[str, float, int]]) -> None:
    """Move all texts of normal pieces by one place; scores and kinds stay."""
    places = [index for index, piece in enumerate(found) if piece[2] == Kind.NORMAL]
    texts = [found[index][0] for index in places]
    for index, text in zip(places, texts[1:] + texts[:1], strict=True):
        found[index] = (text, *found[index][1:])


def added_tokens(change: Callable[[dict[str, int]], object]) -> Damage:
    """Change the ids of added tokens, in both files that list them."""

    def damage(directory: Path) -> None:
        path = directory / "added_tokens.json"
        ids = json.loads(path.read_text())
        before = dict(ids)
        change(ids)
        path.write_text(json.dumps(ids))
        path = directory / "tokenizer_config.json"
        stored = json.loads(path.read_text())
        entries = {before[e["content"]]: e for e in stored["added_tokens_decoder"].values() if e["content"] in before}
        kept = {n: e for n, e in stored["added_tokens_decoder"].items() if e["content"] not in before}
        moved = {str(ids[e["content"]]): e for e in entries.values() if e["content"] in ids}
        stored["added_tokens_decoder"] = kept | moved
        path.write_text(json.dumps(stored))

    return damage


def swap_ids(one: str, two: str) -> Callable[[dict[str, int]], object]:
    return lambda ids: ids.update({one: ids[two], two: ids[one]})


def _piece(text: str, score: float, kind: int) -> bytes:
    data = text.encode()
    body = b"\x0a" + _varint(len(data)) + data + b"\x15" + struct.pack("<f", score)
    if kind != Kind.NORMAL:
        body += b"\x18" + _varint(kind)
    return b"\x0a" + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])
