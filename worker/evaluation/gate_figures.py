"""`make measure-gate`: measure which images are refused as out of distribution, genuine ones and others.

The detectors are those of a reference index of phantoms. Genuine: fresh phantoms of each image type, drawn as in the
training, wider and widest, by their number of findings. Others: each type of negatives (worker.phantoms.draw.negatives)
and the other image types, under the header of each type. No detector was fitted to them.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from db.settings import Settings
from worker.evaluation.evaluate import pipeline_with
from worker.model.resident_model import ResidentModel
from worker.phantoms.cases import CATALOGUE, CHEST_RARE, draw_case
from worker.phantoms.datasets import REFERENCE_CASES, write_reference_cases
from worker.phantoms.dicom_files import form_of
from worker.phantoms.draw.negatives import HELD_OUT, TRAINED
from worker.phantoms.phantoms import TRAINING, WIDER, Variation, draw
from worker.training.train import CHECKPOINT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from worker.phantoms.cases import Case
    from worker.phantoms.draw.negatives import Painter
    from worker.retrieval.retrieve import Index

#: Far from the seeds of training and of the other evaluations.
SEED = 6_400_000
WIDEST = Variation(shift=0.12, degrees=7.0, contrast=(0.6, 1.4), noise=(0.008, 0.07))
DRAWN = {"training": TRAINING, "wider": WIDER, "widest": WIDEST}
#: Pixels on a side of a drawn image.
SIDE = 256


def refused(index: Index, tokens: Any, case: Case) -> bool:
    """Return whether an image, given as patch tokens, is refused under the header of *case*."""
    form = form_of(case)
    found = index.compare(tokens, modality=form.modality, body_part=form.body_part)
    return found is not None and not found.in_distribution


def genuine(
    index: Index, model: ResidentModel, images: Sequence[str], *, count: int, seed: int
) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Return refused and all images of each type, drawing and number of findings, *count* images a drawing."""
    rng, counts = np.random.default_rng(seed), defaultdict[tuple[str, str, str], list[bool]](list)
    for image in images:
        for drawn, variation in DRAWN.items():
            for case in _cases(rng, image, count):
                tokens = model.patch_tokens([draw(case, size=SIDE, variation=variation).rgb()])
                counts[image, drawn, _group(case)].append(refused(index, tokens, case))
    return {group: (sum(found), len(found)) for group, found in counts.items()}


def _cases(rng: np.random.Generator, image: str, count: int) -> Iterator[Case]:
    """Draw cases; of chests every fourth with a rare finding."""
    for number in range(count):
        rare = CHEST_RARE[number // 4 % len(CHEST_RARE)].name if image == "chest" and number % 4 == 0 else ""
        yield draw_case(rng, image, rare=rare)


def _group(case: Case) -> str:
    if {finding.name for finding in case.findings} & {kind.name for kind in CHEST_RARE}:
        return "rare"
    return ("none", "one", "several")[min(len(case.findings), 2)]


def others(
    index: Index, model: ResidentModel, images: Sequence[str], *, count: int, seed: int
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return passed and all images that are none of a type, *count* of each kind, by type and kind."""
    rng, passed = np.random.default_rng(seed), defaultdict[tuple[str, str], list[bool]](list)
    headers = {image: draw_case(rng, image) for image in images}
    painters: dict[str, Painter] = {name: partial(_typical, name) for name in CATALOGUE}
    for kind, paint in {**TRAINED, **HELD_OUT, **painters}.items():
        for tokens in (model.patch_tokens([paint(rng)]) for _ in range(count)):
            for image, case in headers.items():
                if kind != image:
                    passed[image, kind].append(not refused(index, tokens, case))
    return {header: (sum(found), len(found)) for header, found in passed.items()}


def _typical(image: str, rng: np.random.Generator) -> Any:
    return draw(draw_case(rng, image), size=SIDE).rgb()


def tables(genuine_: Mapping[Any, tuple[int, int]], others_: Mapping[Any, tuple[int, int]]) -> list[Table]:
    """Return the refused genuine images and the other images that passed, by image type."""
    first, second = Table("genuine", *DRAWN, title="refused"), Table("header", "passed", "kinds", title="others")
    groups = sorted({(image, group) for image, _, group in genuine_})
    for image, group in groups:
        cells = [genuine_.get((image, drawn, group), (0, 0)) for drawn in DRAWN]
        first.add_row(f"{image}, {group}", *(f"{found} of {of}" for found, of in cells))
    for image in dict.fromkeys(header for header, _ in others_):
        own = {kind: counts for (header, kind), counts in others_.items() if header == image}
        totals = np.sum([*own.values()], axis=0)
        named = ", ".join(f"{kind} {found}" for kind, (found, _) in own.items() if found)
        second.add_row(image, f"{totals[0]} of {totals[1]}", named)
    return [first, second]


def main(
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint directory.")] = CHECKPOINT,
    count: Annotated[int, typer.Option(help="Genuine images of each type and drawing.")] = 120,
    negatives: Annotated[int, typer.Option(help="Images of each kind that is no type.")] = 40,
    images: Annotated[list[str] | None, typer.Option("--image", help="Image types; all without this option.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="Folder of reference phantoms; drawn without this option.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the phantoms.")] = SEED,
) -> None:
    """Measure, print tables and a line of JSON."""
    model, types = ResidentModel.load(checkpoint, device="cpu"), images or [*CATALOGUE]
    with tempfile.TemporaryDirectory() as folder:
        earlier = reference or Path(folder) / "reference"
        if reference is None:
            write_reference_cases(earlier, count=REFERENCE_CASES, seed=seed, variation=TRAINING)
        index = pipeline_with(model, Settings(), earlier, Path(folder)).index
        if index is None:
            raise AssertionError("a pipeline with reference cases has an index")
        ours = genuine(index, model, types, count=count, seed=seed + 1)
        theirs = others(index, model, types, count=negatives, seed=seed + 2)
    model.close()
    for table in tables(ours, theirs):
        Console().print(table)
    worst = {", ".join(group): found / of for group, (found, of) in ours.items() if found}
    figures = {
        "genuine": [sum(n) for n in zip(*ours.values(), strict=True)],
        "groups_refused": worst,
        "others_passed": [sum(n) for n in zip(*theirs.values(), strict=True)],
    }
    print(json.dumps(figures))  # noqa: T201 - the command's output


if __name__ == "__main__":
    typer.run(main)
