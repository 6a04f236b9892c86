"""The spoken check notices a model that is not computed as it was recorded."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from db.errors import ConfigurationError
from deploy.demo.demo import CHECKPOINT
from worker.model.checkpoint.manifest import Manifest, read_manifest
from worker.model.checkpoint.recording import check_spoken
from worker.model.checkpoint.sanity import spoken
from worker.model.checkpoint.sanity.spoken import Spoken
from worker.model.loading import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[Any], object]


def move_tokens(values: Any) -> None:
    """Give each word the token of the next one."""
    vocabulary = values["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.__getitem__)[300:]
    ids = [vocabulary[word] for word in words]
    vocabulary.update(zip(words, ids[1:] + ids[:1], strict=True))


def exchange_sides(values: Any) -> None:
    vocabulary = values["model"]["vocab"]
    vocabulary["Ġleft"], vocabulary["Ġright"] = vocabulary["Ġright"], vocabulary["Ġleft"]


def set_rope(values: Any) -> None:
    values["text_config"]["rope_parameters"]["rope_theta"] = 5e6


def set_statistics(values: Any) -> None:
    values |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tokenizer.json", move_tokens),
        ("tokenizer.json", exchange_sides),
        ("config.json", set_rope),
        ("preprocessor_config.json", set_statistics),
    ],
)
def test_model_that_is_computed_otherwise_is_refused(tmp_path: Path, file: str, change: Change) -> None:
    directory = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, directory)
    values = json.loads((directory / file).read_text())
    change(values)
    (directory / file).write_text(json.dumps(values))
    checkpoint = load_checkpoint(directory, device="cpu", dtype="float32")

    with pytest.raises(ConfigurationError, match="nats a token where"):
        check_spoken(checkpoint, read_manifest(CHECKPOINT), quantized=False)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_number_formats_are_within_the_tolerance(dtype: str) -> None:
    figures = spoken.measure(load_checkpoint(CHECKPOINT, device="cpu", dtype=dtype))

    spoken.check(figures, read_manifest(CHECKPOINT).values["spoken"])


def test_demo_prefers_sentences_to_permuted_words() -> None:
    stored = read_manifest(CHECKPOINT).values["spoken"]

    assert spoken.doubt(Spoken(stored["in_order"], stored["permuted"])) is None


def test_model_for_patients_must_prefer_sentences_unless_that_was_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken, "measure", lambda _: Spoken(-5.0, -5.5))
    model: Any = None

    with pytest.raises(ConfigurationError, match="expected at least 2 more for the sentences"):
        check_spoken(model, Manifest({"demo": False}), quantized=False)

    check_spoken(model, Manifest({"demo": True}), quantized=False)
    check_spoken(model, Manifest({"demo": False, "skipped": ["spoken"]}), quantized=False)


def test_permutation_moves_words_and_loses_none() -> None:
    words, moved = spoken.SENTENCES.split(), spoken.permuted().split()

    assert sorted(words) == sorted(moved)
    assert not any(one == two for one, two in zip(words, moved, strict=True))
