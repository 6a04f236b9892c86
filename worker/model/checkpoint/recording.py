"""Write the manifest of a complete checkpoint, and decide whether it may be used for patients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from db.errors import ConfigurationError
from worker.model.checkpoint.file_digests import file_digest
from worker.model.checkpoint.manifest import FILE_NAME, earlier_facts, write_manifest
from worker.model.checkpoint.sanity import spoken
from worker.model.checkpoint.sanity.doubts import Doubt, refuse
from worker.model.checkpoint.sanity.weight_checks import WeightChecks
from worker.model.checkpoint.shards import Source
from worker.model.loading import as_configuration_error, check_layout, load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from worker.model.checkpoint.manifest import Manifest
    from worker.model.loading import Checkpoint

#: Name of the spoken check among the skipped ones.
SPOKEN = "spoken"
#: Parameters below which a checkpoint is always a demo. The smallest published model that describes images in
#: sentences has 222 million (nanoVLM); the demo has 4 million, in any number format and under any name of a tensor.
MIN_PATIENT_PARAMETERS = 100_000_000


def record_checkpoint(directory: Path, facts: Mapping[str, Any], known: Mapping[str, str] | None = None) -> Manifest:
    """Write the manifest over all files of *directory*, with its spoken figures, and return it.

    *facts* are further values, *known* SHA-256 of files that need no reading. A small checkpoint is a demo whether or
    not *facts* say so. Of a large one no figure is stored: it may not fit into this machine's memory, and its workers
    compare it with a rule instead. Raises ConfigurationError if the checkpoint cannot be loaded.
    """
    values = dict(facts)
    small = is_small(directory)
    values["demo"] = bool(values.get("demo")) or small
    if small:
        figures = spoken.measure(load_checkpoint(directory, device="cpu", dtype="float32"))
        values["spoken"] = figures and figures.values()
    return write_manifest(directory, values, known)


def record_existing(directory: Path, *, trust_unknown: bool = False) -> tuple[Manifest, list[Doubt]]:
    """Write the manifest of a checkpoint that has none, or one of an earlier release; return it and what was skipped.

    Raises ConfigurationError if it has a manifest, if its shards differ from those that an earlier release recorded or,
    unless *trust_unknown* is set, if its weights are unlikely or a model for patients is of unknown origin.
    """
    check_layout(directory)
    earlier = earlier_facts(directory)
    if not earlier and (directory / FILE_NAME).exists():
        raise ConfigurationError(f"{directory} has a manifest: check it with `prelim checkpoint verify {directory}`")
    shards = earlier.pop("shards", None) or {}
    for name, shard in shards.items():
        if not (directory / name).is_file() or file_digest(directory / name) != shard.get("sha256"):
            raise ConfigurationError(f"{directory / name} has changed since the conversion: convert it again")
    doubts = _doubts(directory, earlier)
    refuse(doubts, trusted=trust_unknown)
    skipped = {doubt.check for doubt in doubts} | ({SPOKEN} if trust_unknown and not is_small(directory) else set())
    with as_configuration_error(f"the checkpoint {directory} cannot be recorded"):
        return record_checkpoint(directory, {**_with_version(earlier), "skipped": sorted(skipped)}), doubts


def _doubts(directory: Path, earlier: Mapping[str, Any]) -> list[Doubt]:
    checks = WeightChecks()
    source = Source(directory, checks.look)
    for name in source.shapes:
        source.read(name)
    doubts = [Doubt(*problem) for problem in checks.problems()]
    if not is_small(directory) and "converted_from" not in earlier:
        doubts.append(Doubt("origin", f"{directory} is not a conversion of MedDr_0401: its origin is unknown"))
    return doubts


def _with_version(facts: dict[str, Any]) -> dict[str, Any]:
    """Add the version of the wording that earlier releases assumed: 1 for a demo, 2 for a converted checkpoint."""
    return {"prompt_version": "1" if facts.get("demo") else "2", **facts}


def check_spoken(checkpoint: Checkpoint, manifest: Manifest, *, quantized: bool) -> None:
    """Raise ConfigurationError if a loaded model does not speak as it must.

    A demo has figures in its manifest; a model for patients must also prefer sentences to permuted words, unless that
    was skipped when it was recorded.
    """
    figures = spoken.measure(checkpoint)
    spoken.check(figures, manifest.values.get("spoken"), quantized=quantized)
    doubt = spoken.doubt(figures)
    if doubt and not manifest.demo and SPOKEN not in manifest.skipped:
        raise ConfigurationError(f"{doubt}; weights, tokenizer or positions are wrong")


def is_small(directory: Path) -> bool:
    """Return whether a checkpoint is too small to be a model for patients."""
    shapes = Source(directory).shapes.values()
    return sum(torch.Size(shape).numel() for shape in shapes) < MIN_PATIENT_PARAMETERS


def check_use(directory: Path, manifest: Manifest) -> None:
    """Raise ConfigurationError if a manifest declares a demo for patients."""
    if not manifest.demo and is_small(directory):
        raise ConfigurationError(
            f"{directory} has fewer than {MIN_PATIENT_PARAMETERS:,} parameters and is not recorded as a demo: record it"
            f" again with `prelim checkpoint record {directory}`"
        )
