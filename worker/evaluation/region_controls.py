"""`make measure-regions`: measure whether regions of findings lie where the findings are, beside three controls.

On chest phantoms, whose masks are known. The region of a finding hits if its strongest patch is covered by that
finding. Three controls: a patch by chance; the prior of the text alone (the patch that this finding, side and zone
cover most often in the reference set, for any image); and the same computation on a tower with random weights.
The demo checkpoint's tower was trained with masks of the findings: its figures say nothing about another tower.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - typer reads it at run time
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from worker.retrieval.features import FeatureStats
from worker.training.demo_model import DemoModel
from worker.training.train import CHECKPOINT, labels_of
from worker.training.training_cases import KINDS, UNLABELLED, Pool, Sample, Share, case_of, make_pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from worker.phantoms.cases import Finding

#: Far from the seeds of training and of the other evaluations.
SEED = 5_300_000
#: Share of chests with each rare finding.
RARE = 0.04
#: Quantile of the normal distribution for a one-sided bound at 97.5 %.
BOUND = 1.96


@dataclass(frozen=True, slots=True)
class Located:
    """A finding of an image and its mask [patches], with the masks of the image's other findings together."""

    row: int
    label: str
    place: tuple[str, str, str]
    mask: npt.NDArray[np.bool_]
    others: npt.NDArray[np.bool_]


def located(pool: Pool) -> list[Located]:
    """Return the findings with a visible mask, in the first image of each sample."""
    found = []
    for sample in pool.samples:
        findings = case_of(sample).findings
        masks = [_mask(pool, sample, finding) for finding in findings]
        for finding, mask in zip(findings, masks, strict=True):
            others = np.any([other for other in masks if other is not mask], axis=0) & ~mask
            place = finding.name, finding.side, finding.zone
            if mask.any():
                found.append(Located(sample.rows[0], f"{finding.name} {finding.side}", place, mask, others))
    return found


def _mask(pool: Pool, sample: Sample, finding: Finding) -> npt.NDArray[np.bool_]:
    column = finding.name if finding.name in KINDS else UNLABELLED
    mask: npt.NDArray[np.bool_] = pool.patches[sample.rows[0], :, KINDS.index(column)]
    return mask


def prior(references: Sequence[Located]) -> dict[tuple[str, str, str], int]:
    """Return the patch that a finding with a side and a zone covers most often."""
    masks = defaultdict(list)
    for one in references:
        masks[one.place].append(one.mask)
    return {place: int(np.mean(covered, axis=0).argmax()) for place, covered in masks.items()}


def figures(
    found: Sequence[Located],
    strongest: npt.NDArray[np.int64],
    random: npt.NDArray[np.int64],
    usual: npt.NDArray[np.int64],
) -> dict[str, Any]:
    """Return hit rates of the *strongest* patches of *found*, of the controls, and whether all are beaten.

    A control is beaten if the lower bound of the mean paired difference is above 0.
    """
    hits = {
        "hit": _hits(found, strongest),
        "chance": np.array([one.mask.mean() for one in found]),
        "prior": _hits(found, usual),
        "random_tower": _hits(found, random),
    }
    bounds = {name: _lower_bound(hits["hit"] - hits[name]) for name in ("chance", "prior", "random_tower")}
    several = [number for number, one in enumerate(found) if one.others.any()]
    return {
        "findings": len(found),
        **{name: round(float(values.mean()), 4) for name, values in hits.items()},
        "excess_over_prior": round(float((hits["hit"] - hits["prior"]).mean()), 4),
        "lower_bounds": {name: round(bound, 4) for name, bound in bounds.items()},
        "beside_others": len(several),
        "hit_beside_others": round(float(hits["hit"][several].mean()), 4) if several else None,
        "hit_another": round(float(np.mean([found[n].others[strongest[n]] for n in several])), 4) if several else None,
        "supported": bool(min(bounds.values()) > 0),
    }


def _hits(found: Sequence[Located], patches: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.array([float(one.mask[patch]) for one, patch in zip(found, patches, strict=True)])


def _lower_bound(differences: npt.NDArray[np.float64]) -> float:
    return float(differences.mean() - BOUND * differences.std() / np.sqrt(len(differences)))


def strongest_patches(
    model: DemoModel, references: Pool, pool: Pool, found: Sequence[Located]
) -> npt.NDArray[np.int64]:
    """Return for each of *found* the patch with the largest share in its label; -1 if the label is not measurable."""
    rows = [row for sample in references.samples for row in sample.rows]
    labels = [labels_of(sample) for sample in references.samples for _ in sample.rows]
    known = FeatureStats.fit((layers for _, layers in model.tokens(references.images[rows])), labels)
    shares = np.concatenate([known.label_shares(layers) for _, layers in model.tokens(pool.images)])
    column = {name: number for number, name in enumerate(known.label_names)}
    return np.array(
        [int(shares[one.row, :, column[one.label]].argmax()) if one.label in column else -1 for one in found]
    )


def measure(model: DemoModel, *, references: int, chests: int, seed: int = SEED) -> dict[str, Any]:
    """Return the figures of *model* on fresh chests, beside a fresh reference set."""
    earlier = make_pool([Share("chest", references, rare=RARE)], seed=seed)
    pool = make_pool([Share("chest", chests, rare=RARE)], seed=seed + 1)
    found, usual = located(pool), prior(located(earlier))
    strongest = strongest_patches(model, earlier, pool, found)
    random = strongest_patches(model.untrained(seed=seed), earlier, pool, found)
    kept = [n for n, one in enumerate(found) if strongest[n] >= 0 and one.place in usual]
    of_prior = np.array([usual[found[n].place] for n in kept])
    measured = figures([found[n] for n in kept], strongest[kept], random[kept], of_prior)
    return measured | {"not_measurable": len(found) - len(kept), "references": references, "chests": chests}


def main(
    checkpoint: Annotated[Path, typer.Option(help="Demo checkpoint directory.")] = CHECKPOINT,
    references: Annotated[int, typer.Option(help="Number of reference chests.")] = 720,
    chests: Annotated[int, typer.Option(help="Number of chests.")] = 400,
    seed: Annotated[int, typer.Option(help="Random seed of the phantoms.")] = SEED,
) -> None:
    """Print the hit rate of regions beside its controls, then one line of JSON."""
    measured = measure(DemoModel.load(checkpoint), references=references, chests=chests, seed=seed)
    table = Table(title=f"strongest patch of {measured['findings']} findings in {chests} chest phantoms")
    for column in ("", "hit rate", "lower bound of the difference"):
        table.add_column(column, justify="right")
    for name in ("hit", "chance", "prior", "random_tower"):
        table.add_row(name.replace("_", " "), f"{measured[name]:.3f}", str(measured["lower_bounds"].get(name, "")))
    console = Console(width=100)
    console.print(table)
    beaten = "every control is beaten" if measured["supported"] else "a control is not beaten: do not show regions"
    console.print(f"{beaten}. The demo checkpoint's tower was trained with masks of the findings.")
    print(json.dumps(measured))  # noqa: T201 - the machine's line


if __name__ == "__main__":
    typer.run(main)
